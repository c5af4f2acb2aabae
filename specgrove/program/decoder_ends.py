"""The two ends of a decoder: from token ids to hidden states, and from hidden states to logits. Owned by the decoder.

Either may be a rank's share of the vocabulary. Where a whole model runs in one native call, that call takes their weights.
"""

from __future__ import annotations

import torch

from specgrove.kernels.linear import NativeLinear
from specgrove.kernels.model_step import StepEmbedding, StepHead
from specgrove.models.decoder.parameters import EmbeddingWeights, HeadWeights
from specgrove.models.decoder.sharding import part
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.decoder_layer import Norm
from specgrove.program.decoder_ops import DecoderOps, RowTensors
from specgrove.program.stores import WeightStore
from specgrove.program.tensor_group import TensorGroup


class Embedding:
    """From token ids to hidden states. The rank holds some rows of the vocabulary."""

    def __init__(
        self,
        weights: EmbeddingWeights,
        spec: DecoderSpec,
        group: TensorGroup,
        dtype: torch.dtype,
        store: WeightStore,
        ops: DecoderOps,
    ) -> None:
        self.table = store.table(weights.tokens, dtype)
        self.positions = None if weights.positions is None else store.table(weights.positions, dtype)
        self.projection = None if weights.projection is None else store.linear(weights.projection, None, dtype)
        self._rows = part(spec.vocab_size, group.rank, group.size)
        # Rounded, as where Gemma was trained; float32 is hardly rounded.
        self._scale = torch.tensor(spec.embedding_scale, dtype=dtype).item()
        self._group = group
        self._ops = ops

    def step_embedding(self) -> StepEmbedding | None:
        """For the native step of a whole model; ``None`` where its projection isn't native."""
        if self.projection is not None and not isinstance(self.projection, NativeLinear):
            return None
        return StepEmbedding(self.table, self._scale, self.projection, self.positions)

    def __call__(self, rows: RowTensors) -> torch.Tensor:
        """float32 ``[num_rows, hidden_size]``."""
        if self._group.size == 1 and self.projection is None:
            return self._ops.embed(self.table, rows.token_ids, self._scale, self.positions, rows.positions)
        hidden = self._looked_up(rows.token_ids)
        if self._scale != 1.0:
            hidden *= self._scale
        if self.projection is not None:
            hidden = self.projection(hidden)
        if self.positions is not None:
            hidden += self._ops.embed(self.positions, rows.positions.to(rows.token_ids.dtype))
        return hidden

    def _looked_up(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self._group.size == 1:
            return self._ops.embed(self.table, token_ids)
        ids = token_ids - self._rows.start
        is_own = (ids >= 0) & (ids < len(self._rows))
        found = self._ops.embed(self.table, torch.where(is_own, ids, 0))
        return self._group.sum(found * is_own[:, None])  # all but one are zeros: the sum is exact


class Head:
    """From hidden states to logits."""

    def __init__(
        self,
        weights: HeadWeights,
        spec: DecoderSpec,
        group: TensorGroup,
        dtype: torch.dtype,
        store: WeightStore,
        ops: DecoderOps,
    ) -> None:
        self.norm = None if weights.norm is None else Norm(weights.norm, spec, store, ops)
        self.projection = None if weights.projection is None else store.linear(weights.projection, None, dtype)
        self.vocab = store.linear(weights.vocab, None, dtype)
        self._widths = tuple(len(part(spec.vocab_size, rank, group.size)) for rank in range(group.size))
        self._group = group

    def step_head(self) -> StepHead | None:
        """For the native step of a whole model; ``None`` where a linear isn't native."""
        projection, vocab = self.projection, self.vocab
        if not isinstance(vocab, NativeLinear) or (projection is not None and not isinstance(projection, NativeLinear)):
            return None
        return StepHead(None if self.norm is None else self.norm.step_norm, projection, vocab)

    def __call__(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits of some rows, float32 ``[len(rows), vocab_size]``."""
        hidden = hidden.index_select(0, rows) if self.norm is None else self.norm(hidden, rows)
        if self.projection is not None:
            hidden = self.projection(hidden)
        return self._group.concatenated(self.vocab(hidden), self._widths)
