"""The decoder's ops by the kernels for GPUs: what linears read is in the model's dtype, all else is float32.

Chosen by ``DeviceWeights``. Nothing here waits for the device, so that a pass can be captured into a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.cuda import attention, elementwise, norms
from specgrove.kernels.cuda.attention import AttentionPlan
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.device_limits import why_not
from specgrove.models.decoder.sharding import HeadShard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.decoder_ops import NormParams, RowTensors
from specgrove.program.forward_batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """``RowTensors`` on the device: ids and positions are int32. Rows whose slot is below 0 only fill the pass."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    logit_rows: torch.Tensor
    attention: AttentionPlan

    @property
    def num_rows(self) -> int:
        """See ``RowTensors``."""
        return self.token_ids.shape[0]


class DeviceOps:
    """See ``DecoderOps``."""

    def __init__(self, heads: HeadShard, spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> None:
        """Raises ``ValueError`` for a model that they can't run."""
        if (reason := why_not(spec, str(dtype).removeprefix("torch."))) is not None:
            raise ValueError(f"the kernels for GPUs can't run this model: {reason}")
        self.heads = AttentionHeads(heads.num_q, heads.num_kv, spec.head_dim)
        self._dtype = dtype
        self._device = device

    def rows(self, batch: ForwardBatch) -> RowTensors:
        """See ``DecoderOps``."""
        there = batch.to(self._device)
        return DeviceRows(
            token_ids=there.token_ids.int(),
            positions=there.positions,
            slots=there.slots,
            logit_rows=there.logit_rows.int(),
            attention=AttentionPlan.of(batch.rows, self.heads, batch.num_rows, self._device),
        )

    def embed(
        self,
        table: torch.Tensor,
        token_ids: torch.Tensor,
        scale: float = 1.0,
        position_table: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        out = torch.empty(token_ids.shape[0], table.shape[1], device=self._device)
        positions = None if position_table is None else positions
        elementwise.embed(table, token_ids, out, scale, position_table, positions)
        return out

    def norm(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        params: NormParams,
        *,
        rows: torch.Tensor | None = None,
        is_input: bool = True,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        num_rows = hidden.shape[0] if rows is None else rows.shape[0]
        dtype = self._dtype if is_input else torch.float32
        out = torch.empty(num_rows, hidden.shape[1], dtype=dtype, device=self._device)
        if params.is_rms:
            norms.rms_norm(hidden, delta, params.scale, params.eps, out, rows)
        else:
            norms.layer_norm(hidden, delta, params.scale, params.shift, params.eps, out, rows)
        return out

    def head_rms_norm(
        self, qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
    ) -> None:
        """See ``DecoderOps``."""
        norms.head_rms_norm(qkv, weight, eps, first_head, num_heads, head_dim)

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        rows: RowTensors,
        cos_sin: torch.Tensor | None,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        shape = (qkv.shape[0], self.heads.num_heads, self.heads.head_dim)
        queries = torch.empty(shape, dtype=self._dtype, device=self._device)
        elementwise.rotate_and_store(qkv, rows.positions, cos_sin, rows.slots, k_cache, v_cache, queries)
        return queries

    def tree_attention(
        self,
        queries: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        rows: RowTensors,
        scale: float,
        alibi_slopes: torch.Tensor | None,
        window: int | None,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        assert isinstance(rows.attention, AttentionPlan)
        out = torch.empty(queries.shape[0], queries[0].numel(), dtype=self._dtype, device=self._device)
        attention.tree_attention(queries, k_cache, v_cache, rows.attention, scale, out, alibi_slopes, window)
        return out

    def activate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``DecoderOps``."""
        out = torch.empty(x.shape, dtype=self._dtype, device=self._device)
        elementwise.activate(x, activation, out)
        return out

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``DecoderOps``."""
        out = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=self._dtype, device=self._device)
        elementwise.gated(gate_up, activation, out)
        return out

    def add(self, hidden: torch.Tensor, delta: torch.Tensor) -> None:
        """See ``DecoderOps``."""
        hidden += delta
