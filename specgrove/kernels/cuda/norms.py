"""Norms, fused with the addition before them and the conversion after them."""

from __future__ import annotations

import torch

from specgrove.kernels.checks import check, optional_address
from specgrove.kernels.cuda.backend import backend, dtype_of


def rms_norm(
    residual: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
) -> None:
    """``residual += delta``, in place, and the norm of the sum to ``out``: computed in float32, rounded once to ``out``'s dtype.

    ``residual`` and ``delta`` are float32 ``[num_rows, size]``, ``weight`` float32 ``[size]``; ``out`` is ``[num_rows, size]`` of float32,
    bfloat16 or float16.
    """
    module, stream = backend(residual, delta, weight, out)
    num_rows, size = residual.shape
    check(residual, "residual", torch.float32, num_rows, size)
    check(weight, "weight", torch.float32, size)
    check(out, "out", out.dtype, num_rows, size)
    delta_address = optional_address(delta, "delta", num_rows, size)
    module.rms_norm(
        residual.data_ptr(),
        delta_address,
        weight.data_ptr(),
        eps,
        num_rows,
        size,
        out.data_ptr(),
        dtype_of(module, out),
        stream,
    )
