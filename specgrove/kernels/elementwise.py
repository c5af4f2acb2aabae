"""Norms, gated activation and embedding. All activations are float32 ``[num_rows, size]``."""

from __future__ import annotations

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x * rsqrt(mean(x ** 2) + eps) * weight`` by row (arXiv 1910.07467)."""
    num_rows, size = x.shape
    check(x, "x", torch.float32, num_rows, size)
    check(weight, "weight", torch.float32, size)
    out = torch.empty_like(x)
    _native.rms_norm(x.data_ptr(), weight.data_ptr(), eps, num_rows, size, out.data_ptr())
    return out


def add_rms_norm(residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Adds ``delta`` to ``residual`` in place, and returns the norm of the sum."""
    num_rows, size = residual.shape
    check(weight, "weight", torch.float32, size)
    check(residual, "residual", torch.float32, num_rows, size)
    check(delta, "delta", torch.float32, num_rows, size)
    out = torch.empty_like(residual)
    _native.add_rms_norm(residual.data_ptr(), delta.data_ptr(), weight.data_ptr(), eps, num_rows, size, out.data_ptr())
    return out


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``[num_rows, 2 * size]`` to ``[num_rows, size]``: ``silu(gate) * up``."""
    num_rows, width = gate_up.shape
    check(gate_up, "gate_up", torch.float32, num_rows, width)
    size = width // 2
    if width % 2:
        raise ValueError(f"gate_up must have an even number of columns, got {width}")
    out = torch.empty((num_rows, size))
    _native.silu_mul(gate_up.data_ptr(), num_rows, size, out.data_ptr())
    return out


def embed(table: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows of ``table`` ``[vocab_size, size]`` (float32, bfloat16, float16) for int64 ids, as float32 ``[num_rows, size]``.

    Raises ``ValueError`` for an id that the table doesn't have.
    """
    num_rows, (vocab_size, size) = token_ids.shape[0], table.shape
    check(token_ids, "token_ids", torch.int64, num_rows)
    out = torch.empty((num_rows, size))
    table_dtype = native_dtype(table, "table")
    _native.embed(table.data_ptr(), table_dtype, vocab_size, token_ids.data_ptr(), num_rows, size, out.data_ptr())
    return out
