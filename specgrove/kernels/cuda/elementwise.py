"""Embedding, rotary embedding with the writing of keys and values, and activation functions, on a GPU."""

from __future__ import annotations

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.checks import check
from specgrove.kernels.cuda.backend import backend, dtype_of


def embed(
    table: torch.Tensor,
    token_ids: torch.Tensor,
    out: torch.Tensor,
    scale: float = 1.0,
    position_table: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    first_id: int = 0,
) -> None:
    """``table[token_ids - first_id] * scale + position_table[positions]`` to ``out``, float32 ``[num_rows, size]``.

    ``table`` is ``[num_ids, size]`` of float32, bfloat16 or float16, ``position_table`` ``[num_positions, size]`` of the same dtype, or
    none; ``token_ids`` and ``positions`` are int32 ``[num_rows]``. Ids that the table doesn't have give zeros in its place. Positions are
    not checked: that would wait for the device.
    """
    module, stream = backend(table, token_ids, out, position_table, positions)
    num_rows, size = out.shape
    check(table, "table", table.dtype, None, size)
    check(token_ids, "token_ids", torch.int32, num_rows)
    check(out, "out", torch.float32, num_rows, size)
    position_table_address, positions_address = 0, 0
    if position_table is not None:
        if positions is None:
            raise ValueError("position_table needs positions")
        check(position_table, "position_table", table.dtype, None, size)
        check(positions, "positions", torch.int32, num_rows)
        position_table_address, positions_address = position_table.data_ptr(), positions.data_ptr()
    module.embed(
        table=table.data_ptr(),
        token_ids=token_ids.data_ptr(),
        first_id=first_id,
        num_ids=table.shape[0],
        position_table=position_table_address,
        positions=positions_address,
        dtype=dtype_of(module, table),
        scale=scale,
        num_rows=num_rows,
        size=size,
        out=out.data_ptr(),
        stream=stream,
    )


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    queries: torch.Tensor,
) -> None:
    """As ``torch_ops.rotate_store``; queries go to ``queries`` ``[num_rows, num_heads, head_dim]``, of the caches' dtype.

    A row whose slot is below 0 only fills the pass: nothing of it is written. Positions and slots are not checked: that would wait for the
    device. Raises ``ValueError`` for shapes that don't fit together.
    """
    module, stream = backend(qkv, positions, cos_sin, slots, k_cache, v_cache, queries)
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = k_cache.shape[1]
    check(qkv, "qkv", torch.float32, num_rows, (num_heads + 2 * num_kv_heads) * head_dim)
    check(positions, "positions", torch.int32, num_rows)
    check(slots, "slots", torch.int32, num_rows)
    check(k_cache, "k_cache", queries.dtype, None, num_kv_heads, head_dim)
    check(v_cache, "v_cache", queries.dtype, *k_cache.shape)
    check(queries, "queries", queries.dtype, num_rows, num_heads, head_dim)
    if cos_sin is not None:
        check(cos_sin, "cos_sin", torch.float32, None, head_dim)
    if head_dim % 2:
        raise ValueError(f"heads must be of an even size, got {head_dim}")
    module.rotate_and_store(
        qkv=qkv.data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=0 if cos_sin is None else cos_sin.data_ptr(),
        slots=slots.data_ptr(),
        k_cache=k_cache.data_ptr(),
        v_cache=v_cache.data_ptr(),
        queries=queries.data_ptr(),
        dtype=dtype_of(module, queries),
        num_rows=num_rows,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        stream=stream,
    )


def activate(x: torch.Tensor, activation: Activation, out: torch.Tensor) -> None:
    """The activation function of every element of ``x``, float32 ``[num_rows, size]``, to ``out``: float32, bfloat16 or float16."""
    _activate(x, activation, out, is_gated=False)


def gated(gate_up: torch.Tensor, activation: Activation, out: torch.Tensor) -> None:
    """``activation(gate) * up`` of ``gate_up``, float32 ``[num_rows, 2 * size]``, to ``out`` ``[num_rows, size]``."""
    _activate(gate_up, activation, out, is_gated=True)


def _activate(x: torch.Tensor, activation: Activation, out: torch.Tensor, *, is_gated: bool) -> None:
    module, stream = backend(x, out)
    num_rows, size = out.shape
    check(x, "x", torch.float32, num_rows, 2 * size if is_gated else size)
    check(out, "out", out.dtype, num_rows, size)
    name = getattr(module.Activation, activation)
    module.activate(
        x=x.data_ptr(),
        activation=name,
        is_gated=is_gated,
        num_rows=num_rows,
        size=size,
        out=out.data_ptr(),
        out_dtype=dtype_of(module, out),
        stream=stream,
    )
