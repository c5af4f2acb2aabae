"""A loaded model, or one rank's share of it: its spec, its program with the weights, and the backend that runs it.

Made by ``load_decoder``, called by ``specgrove.runtime.ModelRunner``, which owns the KV cache. A share may be some heads, MLP columns and
vocabulary rows (tensor parallel), some of the layers (pipeline parallel). Every op is row-invariant, so a row's logits don't depend on what
else is in the pass.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.parameters import ModelWeights
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.backend import Executable, KvCaches, PassOutput
from specgrove.program.build import Progress, build
from specgrove.program.keeping import keeping
from specgrove.program.stores import MemoryWeights, WeightStore
from specgrove.program.tensor_group import OneRank, TensorGroup

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Decoder:
    """Ready to run. ``dtype`` is that of weights and caches; hidden states are float32."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: ModelWeights,
        dtype: torch.dtype,
        shard: Shard | None = None,
        group: TensorGroup | None = None,
        store: WeightStore | None = None,
        progress: Progress = lambda done, total: None,
        keep_hidden: Collection[int] = (),
    ) -> None:
        """``keep_hidden`` as for ``build``."""
        store, group = store or MemoryWeights(), group or OneRank()
        self.spec, self.dtype, self.device = spec, dtype, store.device
        self.program = build(spec, weights, dtype, store, shard, keep_hidden, progress)
        self.executable = store.executable(self.program, group)
        self._store, self._group, self._shard = store, group, shard or Shard.whole(spec)
        self._keeping: tuple[tuple[int, ...], Executable] = ((), self.executable)

    @property
    def heads(self) -> AttentionHeads:
        """This rank's."""
        return self.program.heads

    @property
    def num_layers(self) -> int:
        """Layers that this rank runs: so many KV caches it needs."""
        return self.program.num_layers

    @property
    def hidden_layers(self) -> range:
        """Layers whose hidden states this rank can hand out."""
        return range(self._shard.first_layer, self._shard.end_layer + 1)

    def keeping(self, layers: tuple[int, ...]) -> Executable:
        """What runs passes that hand out the hidden states before these layers, rising: another program over the same weights.

        It is made when it is asked for first; the last one that was asked for is kept. Raises ``ValueError`` for layers that this rank
        doesn't have.
        """
        if layers != self._keeping[0]:
            places = [layer - self._shard.first_layer for layer in layers]
            program = keeping(self.program, places, self.spec.hidden_size)
            self._keeping = layers, self._store.executable(program, self._group)
        return self._keeping[1]

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """One pass, see ``Executable``."""
        executable = self.keeping(rows.hidden_layers) if rows.hidden_layers else self.executable
        return executable.run(rows, caches, hidden)
