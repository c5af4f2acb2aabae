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
from specgrove.program.backend import KvCaches, PassOutput
from specgrove.program.build import Progress, build
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
        store = store or MemoryWeights()
        self.spec, self.dtype, self.device = spec, dtype, store.device
        self.program = build(spec, weights, dtype, store, shard, keep_hidden, progress)
        self.executable = store.executable(self.program, group or OneRank())

    @property
    def heads(self) -> AttentionHeads:
        """This rank's."""
        return self.program.heads

    @property
    def num_layers(self) -> int:
        """Layers that this rank runs: so many KV caches it needs."""
        return self.program.num_layers

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """One pass, see ``Executable``."""
        return self.executable.run(rows, caches, hidden)
