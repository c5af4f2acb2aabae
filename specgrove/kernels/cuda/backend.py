"""Which native module runs a GPU kernel, and on which stream."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch

# ``Any``: both modules have the functions of csrc/cuda/bindings.cpp.
_MODULES = {"cuda": "specgrove.kernels._cuda", "cpu": "specgrove.kernels._cuda_emulator"}


class KernelsMissingError(RuntimeError):
    """This installation has no kernels for the device."""


def kernels_for(device: torch.device) -> Any:
    """The module with the kernels for a device. Raises ``KernelsMissingError`` where there is none."""
    return _module(device.type)


@cache
def _module(device_type: str) -> ModuleType:
    name = _MODULES.get(device_type)
    if name is None:
        raise KernelsMissingError(f"there are kernels for CUDA devices, not for {device_type!r}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = (
            "where nvcc is found; put it on PATH and install again"
            if device_type == "cuda"
            else "in a checkout, for tests"
        )
        raise KernelsMissingError(f"{name} can't be loaded ({error}): it is built {how}") from error


def num_processors(device: torch.device) -> int:
    """That run blocks side by side."""
    if device.type != "cuda":
        return 3  # so that the emulator's blocks take several items each
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def backend(tensor: torch.Tensor, *others: torch.Tensor | None) -> tuple[Any, int]:
    """The module with the kernels for the tensors' device, and the number of the stream to launch them on.

    Raises ``ValueError`` where tensors lie on several devices, or not on the current one.
    """
    device = tensor.device
    for other in others:
        if other is not None and other.device != device:
            raise ValueError(f"all tensors must be on one device, got {device} and {other.device}")
    if device.type != "cuda":
        return _module(device.type), 0
    if device.index != torch.cuda.current_device():
        raise ValueError(f"{device} must be the current device, which is cuda:{torch.cuda.current_device()}")
    return _module(device.type), torch.cuda.current_stream(device).cuda_stream


def launch(kernel: str, **fields: Any) -> None:
    """Launches the kernel of this name in ``csrc/cuda``, with its op's fields: tensors, numbers, texts, ``None``.

    Buffers are tensors ``[num_rows, width]``. Raises ``ValueError`` for tensors of other shapes or dtypes than the kernel takes.
    """
    module, stream = backend(*(value for value in fields.values() if isinstance(value, torch.Tensor)))
    module.launch(kernel, fields, stream)


_DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def dtype_of(module: Any, tensor: torch.Tensor) -> Any:
    """The module's name for the tensor's dtype. Raises ``ValueError`` for others than float32, bfloat16 and float16."""
    name = _DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise ValueError(f"expected a tensor of float32, bfloat16 or float16, got {tensor.dtype}")
    return getattr(module.DType, name)
