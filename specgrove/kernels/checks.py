"""Checks that wrappers make before an address crosses to native code. Cheap: a decoder step makes hundreds of calls."""

from __future__ import annotations

import torch

from specgrove.kernels import _native

NATIVE_DTYPES = {
    torch.float32: _native.DType.float32,
    torch.bfloat16: _native.DType.bfloat16,
    torch.float16: _native.DType.float16,
}


def check(tensor: torch.Tensor, name: str, dtype: torch.dtype, *shape: int | None) -> None:
    """Raises ``ValueError`` unless the tensor is contiguous and has this dtype and shape (``None``: any size)."""
    if tensor.dtype is not dtype or not tensor.is_contiguous() or tensor.dim() != len(shape):
        raise ValueError(
            f"{name} must be a contiguous {dtype} tensor of {len(shape)} dimensions, "
            f"got {tensor.dtype} {list(tensor.shape)}{'' if tensor.is_contiguous() else ', not contiguous'}"
        )
    for size, wanted in zip(tensor.shape, shape, strict=True):
        if wanted is not None and size != wanted:
            raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")


def native_dtype(tensor: torch.Tensor, name: str) -> _native.DType:
    """The element type of weights or of a KV cache. Raises ``ValueError`` for others and for strided tensors."""
    if tensor.dtype not in NATIVE_DTYPES or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous float32, bfloat16 or float16, got {tensor.dtype}")
    return NATIVE_DTYPES[tensor.dtype]
