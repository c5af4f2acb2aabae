"""What a decoder runs between its linears, for each kind of device: the CPU's kernels, or ops composed from torch's own.

A ``WeightStore`` says which: it knows where weights lie, and so what can run on them. The ops of the kernels for GPUs are in
``specgrove.program.device_ops``. Hidden states, what a layer adds to them, and what linears give are float32 everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from specgrove.kernels import attention, composed, elementwise
from specgrove.kernels.activations import Activation
from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.cuda.attention import AttentionPlan
from specgrove.program.forward_batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class NormParams:
    """An RMS norm, or a layer norm with or without a shift. Vectors are float32 ``[size]``."""

    is_rms: bool
    eps: float
    scale: torch.Tensor
    shift: torch.Tensor | None


class RowTensors(Protocol):
    """The rows of one forward pass, where the decoder runs; as in ``ForwardBatch``."""

    @property
    def num_rows(self) -> int:
        """Tokens in this forward pass."""
        ...

    @property
    def token_ids(self) -> torch.Tensor:
        """int64 or int32 ``[num_rows]``."""
        ...

    @property
    def positions(self) -> torch.Tensor:
        """int32 ``[num_rows]``."""
        ...

    @property
    def slots(self) -> torch.Tensor:
        """int32 ``[num_rows]``."""
        ...

    @property
    def logit_rows(self) -> torch.Tensor:
        """int64 or int32 ``[num_logit_rows]``."""
        ...

    @property
    def attention(self) -> AttentionBatch | AttentionPlan:
        """What attention sees."""
        ...


class DecoderOps(Protocol):
    """Every op works row by row: a row's bits don't depend on the rows beside it."""

    def rows(self, batch: ForwardBatch) -> RowTensors:
        """A batch as these ops take it."""
        ...

    def embed(
        self,
        table: torch.Tensor,
        token_ids: torch.Tensor,
        scale: float = 1.0,
        position_table: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``table[token_id] * scale + position_table[position]``, float32."""
        ...

    def norm(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        params: NormParams,
        *,
        rows: torch.Tensor | None = None,
        is_input: bool = True,
    ) -> torch.Tensor:
        """Adds ``delta`` to ``hidden`` in place; the norm of the sum. With ``rows`` (and no ``delta``) of these rows only, in this order.

        What is the input of linears may be rounded to what they take; what is not is float32.
        """
        ...

    def head_rms_norm(
        self, qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
    ) -> None:
        """See ``specgrove.kernels.elementwise``."""
        ...

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        rows: RowTensors,
        cos_sin: torch.Tensor | None,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """See ``specgrove.kernels.attention``."""
        ...

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
        """See ``specgrove.kernels.attention``; an input of a linear."""
        ...

    def activate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``specgrove.kernels.elementwise``; an input of a linear."""
        ...

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``specgrove.kernels.elementwise``; an input of a linear."""
        ...

    def add(self, hidden: torch.Tensor, delta: torch.Tensor) -> None:
        """In place."""
        ...


class FloatOps:
    """Float32 throughout: by the CPU's kernels, or on another device by ops of the same names that are composed from torch's own."""

    def __init__(self, device: torch.device, *, is_composed: bool) -> None:
        self._device = device
        self._elementwise: Any = composed if is_composed else elementwise
        self._attention: Any = composed if is_composed else attention

    def rows(self, batch: ForwardBatch) -> RowTensors:
        """See ``DecoderOps``."""
        return batch.to(self._device)

    def embed(
        self,
        table: torch.Tensor,
        token_ids: torch.Tensor,
        scale: float = 1.0,
        position_table: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        hidden: torch.Tensor = self._elementwise.embed(table, token_ids)
        if scale != 1.0:
            hidden *= scale
        if position_table is not None and positions is not None:
            hidden += self._elementwise.embed(position_table, positions.long())
        return hidden

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
        hidden = hidden if rows is None else hidden.index_select(0, rows)
        normed: torch.Tensor
        if params.is_rms and delta is None:
            normed = self._elementwise.rms_norm(hidden, params.scale, params.eps)
        elif params.is_rms:
            normed = self._elementwise.add_rms_norm(hidden, delta, params.scale, params.eps)
        elif delta is None:
            normed = self._elementwise.layer_norm(hidden, params.scale, params.shift, params.eps)
        else:
            normed = self._elementwise.add_layer_norm(hidden, delta, params.scale, params.shift, params.eps)
        return normed

    def head_rms_norm(
        self, qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
    ) -> None:
        """See ``DecoderOps``."""
        self._elementwise.head_rms_norm(qkv, weight, eps, first_head, num_heads, head_dim)

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        rows: RowTensors,
        cos_sin: torch.Tensor | None,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """See ``DecoderOps``."""
        queries = self._attention.rotate_and_store(qkv, rows.positions, cos_sin, rows.slots, k_cache, v_cache)
        return cast(torch.Tensor, queries)

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
        attended = self._attention.tree_attention(
            queries, k_cache, v_cache, rows.attention, scale, alibi_slopes, window
        )
        return cast(torch.Tensor, attended)

    def activate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``DecoderOps``."""
        return cast(torch.Tensor, self._elementwise.activate(x, activation))

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See ``DecoderOps``."""
        return cast(torch.Tensor, self._elementwise.gated(gate_up, activation))

    def add(self, hidden: torch.Tensor, delta: torch.Tensor) -> None:
        """See ``DecoderOps``."""
        self._elementwise.add(hidden, delta)
