"""The one decoder definition: a forward pass over rows of any mix of sequences, configured by ``DecoderSpec``.

Called by ``specgrove.runtime.ModelRunner``, which owns the KV cache. A decoder may be one rank's share: some heads, MLP columns and
vocabulary rows (tensor parallel), some of the layers (pipeline parallel). Hidden states are float32, weights and caches have the model's
dtype. Every kernel is row-invariant, so a row's logits don't depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.parameters import ModelWeights
from specgrove.models.decoder.rotary import cos_sin_table
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.sharding import Shard, heads_of
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.backend import PassOutput
from specgrove.program.decoder_ends import Embedding, Head
from specgrove.program.decoder_layer import DecoderLayer
from specgrove.program.decoder_ops import RowTensors
from specgrove.program.decoder_step import decoder_step_of, model_step_of
from specgrove.program.device_ops import DeviceOps
from specgrove.program.forward_batch import ForwardBatch
from specgrove.program.stores import MemoryWeights, WeightStore
from specgrove.program.tensor_group import OneRank, TensorGroup

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Progress = Callable[[int, int], None]


class Decoder:
    """A loaded model, or one rank's share of it."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: ModelWeights,
        dtype: torch.dtype,
        shard: Shard | None = None,
        group: TensorGroup | None = None,
        store: WeightStore | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.shard = shard or Shard.whole(spec)
        self.heads = heads_of(spec, self.shard)
        self._group = group or OneRank()
        self._store = store or MemoryWeights()
        self.device = self._store.device
        self.ops = self._store.ops(spec, self.heads, dtype)
        is_first, is_last = self.shard.is_first_stage, self.shard.is_last_stage
        self.embedding = (
            Embedding(weights.embedding(), spec, self._group, dtype, self._store, self.ops) if is_first else None
        )
        self._store.end_unit()
        self.layers: list[DecoderLayer] = []
        indices = range(self.shard.first_layer, self.shard.end_layer)
        for index in indices:
            layer = DecoderLayer(
                weights.layer(index), spec, spec.layers[index], self.heads, dtype, self._store, self.ops
            )
            self._store.end_unit()
            self.layers.append(layer)
            progress(len(self.layers), len(indices))
        self.head = Head(weights.head(), spec, self._group, dtype, self._store, self.ops) if is_last else None
        self._store.end_unit()
        self._store.end()
        self._cos_sin: dict[RotarySpec, torch.Tensor] = {
            rotary: self._store.vector(cos_sin_table(rotary, spec.head_dim, spec.max_position_embeddings))
            for rotary in {layer.spec.rotary for layer in self.layers}
            if rotary is not None
        }
        is_alone = self._group.size == 1 and not self._store.is_streamed
        self._step = decoder_step_of(self.layers, spec, self.heads, self._cos_sin) if is_alone else None
        self._model_step = model_step_of(self._step, self.embedding, self.head)

    @property
    def can_be_captured(self) -> bool:
        """Whether a pass is a fixed sequence of kernels on a GPU: a whole model on kernels, with all weights there."""
        is_whole = self.embedding is not None and self.head is not None and self._group.size == 1
        return isinstance(self.ops, DeviceOps) and is_whole and not self._store.is_streamed

    @property
    def num_layers(self) -> int:
        """Layers that this rank runs: so many KV caches it needs."""
        return len(self.layers)

    def forward(
        self, asked: PassRows, k_caches: Sequence[torch.Tensor], v_caches: Sequence[torch.Tensor]
    ) -> PassOutput:
        """A whole model's pass: choices where the rows ask for them and the model runs in one native call, else logits.

        Caches are one tensor per layer, ``[num_slots, num_kv_heads, head_dim]``, on ``device``; the rows' slots are written.
        """
        if self._model_step is not None:
            choices, logits = self._model_step(asked, k_caches, v_caches)
            return PassOutput(choices, logits)
        rows = self.ops.rows(ForwardBatch(asked))
        return PassOutput((), self.logits(self.run_layers(self.embed(rows), rows, k_caches, v_caches), rows).cpu())

    def embed(self, rows: RowTensors) -> torch.Tensor:
        """The first stage's beginning: hidden states float32 ``[num_rows, hidden_size]``."""
        assert self.embedding is not None, "only the first stage embeds"
        self._store.will_run(0)
        return self.embedding(rows)

    def run_layers(
        self,
        hidden: torch.Tensor,
        rows: RowTensors,
        k_caches: Sequence[torch.Tensor],
        v_caches: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """This rank's layers, from hidden states (which may be overwritten) to hidden states.

        In one native call, unless something has to happen between kernels; both ways give the same bits.
        """
        if self._step is not None:
            assert isinstance(rows.attention, AttentionBatch)
            self._step(hidden, rows.positions, rows.slots, rows.attention, k_caches, v_caches)
            return hidden
        delta: torch.Tensor | None = None
        for index, (layer, k_cache, v_cache) in enumerate(zip(self.layers, k_caches, v_caches, strict=True)):
            self._store.will_run(index + 1)
            cos_sin = None if layer.spec.rotary is None else self._cos_sin[layer.spec.rotary]
            hidden, delta = layer(hidden, delta, rows, cos_sin, k_cache, v_cache, self._group)
        if delta is not None:
            self.ops.add(hidden, delta)
        return hidden

    def logits(self, hidden: torch.Tensor, rows: RowTensors) -> torch.Tensor:
        """The last stage's end: logits of the rows that are wanted."""
        return self.logits_of(hidden, rows.logit_rows)

    def logits_of(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits of rows by their numbers, int64 or int32 ``[n]``: float32 ``[n, vocab_size]``."""
        assert self.head is not None, "only the last stage has logits"
        self._store.will_run(len(self.layers) + 1)
        if len(rows) == 0:  # chunks of a prompt before the last
            return torch.empty((0, self.spec.vocab_size), device=self.device)
        return self.head(hidden, rows)
