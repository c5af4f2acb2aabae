"""Checks that wrappers make before an address crosses to native code. Cheap: a pass makes hundreds of calls."""

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
    if tensor.dtype is dtype and tensor.is_contiguous():
        found = tensor.shape
        if found == shape:  # the fast way: no sizes left open
            return
        if len(found) == len(shape):
            if all(wanted is None or size == wanted for size, wanted in zip(found, shape, strict=True)):
                return
            raise ValueError(f"{name} must have the shape {list(shape)}, got {list(found)}")
    raise ValueError(
        f"{name} must be a contiguous {dtype} tensor of {len(shape)} dimensions, "
        f"got {tensor.dtype} {list(tensor.shape)}{'' if tensor.is_contiguous() else ', not contiguous'}"
    )


def check_packed(packed: torch.Tensor, nbytes: int) -> None:
    """Raises ``ValueError`` unless these are the bytes of packed weights of this size, where vectors can be read from."""
    check(packed, "packed", torch.uint8, nbytes)
    if packed.data_ptr() % 64:
        raise ValueError("packed must start at a multiple of 64 bytes")


def optional_address(tensor: torch.Tensor | None, name: str, *shape: int) -> int:
    """Where a float32 tensor lies, after a check of its shape; 0 for none."""
    if tensor is None:
        return 0
    check(tensor, name, torch.float32, *shape)
    return tensor.data_ptr()


def native_dtype(tensor: torch.Tensor, name: str) -> _native.DType:
    """The element type of weights or of a KV cache. Raises ``ValueError`` for others and for strided tensors."""
    if tensor.dtype not in NATIVE_DTYPES or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous float32, bfloat16 or float16, got {tensor.dtype}")
    return NATIVE_DTYPES[tensor.dtype]
