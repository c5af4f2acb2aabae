"""Norms, fused with the addition before them and the conversion after them; and norms of heads, in place."""

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
    rows: torch.Tensor | None = None,
) -> None:
    """``residual += delta``, in place, and the norm of the sum to ``out``: computed in float32, rounded once to ``out``'s dtype.

    ``residual`` and ``delta`` are float32 ``[num_rows, size]``, ``weight`` float32 ``[size]``; ``out`` is ``[num_rows, size]`` of float32,
    bfloat16 or float16. With ``rows``, int32 ``[num_out_rows]``, ``out`` has the norms of these rows of the sum, in their order, and
    nothing else is written. Rows are not checked: that would wait for the device.
    """
    _norm("rms_norm", residual, delta, weight, None, eps, out, rows)


def layer_norm(
    residual: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> None:
    """The same with a layer norm; ``bias`` is float32 ``[size]``."""
    _norm("layer_norm", residual, delta, weight, bias, eps, out, rows)


def _norm(
    name: str,
    residual: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    rows: torch.Tensor | None,
) -> None:
    module, stream = backend(residual, delta, weight, bias, out, rows)
    num_rows, size = residual.shape
    num_out_rows = num_rows if rows is None else rows.shape[0]
    check(residual, "residual", torch.float32, num_rows, size)
    check(weight, "weight", torch.float32, size)
    check(out, "out", out.dtype, num_out_rows, size)
    if rows is not None:
        check(rows, "rows", torch.int32, num_out_rows)
    getattr(module, name)(
        residual=residual.data_ptr(),
        delta=optional_address(delta, "delta", num_rows, size),
        weight=weight.data_ptr(),
        bias=optional_address(bias, "bias", size),
        rows=0 if rows is None else rows.data_ptr(),
        eps=eps,
        num_out_rows=num_out_rows,
        size=size,
        out=out.data_ptr(),
        out_dtype=dtype_of(module, out),
        stream=stream,
    )


def head_rms_norm(
    qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
) -> None:
    """As ``torch_ops.head_norm``: in place, ``qkv`` is float32 ``[num_rows, width]``, ``weight`` float32 ``[head_dim]``."""
    module, stream = backend(qkv, weight)
    num_rows, width = qkv.shape
    check(qkv, "qkv", torch.float32, num_rows, width)
    check(weight, "weight", torch.float32, head_dim)
    if min(first_head, num_heads) < 0 or (first_head + num_heads) * head_dim > width:
        raise ValueError(
            f"qkv of {width} columns has no {num_heads} heads of size {head_dim} from head {first_head} on"
        )
    module.head_rms_norm(
        qkv=qkv.data_ptr(),
        weight=weight.data_ptr(),
        eps=eps,
        num_rows=num_rows,
        width=width,
        first_head=first_head,
        num_heads=num_heads,
        head_dim=head_dim,
        stream=stream,
    )
