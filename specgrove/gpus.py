"""Whether a machine has an NVIDIA GPU, found without torch: by the files of its driver. Asked before anything is started."""

from __future__ import annotations

from pathlib import Path

# Of a card's driver, of Jetson's, and of Windows' for Linux inside it.
_DEVICE_FILES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg")


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """``False`` is sure; whether torch can use one only torch knows."""
    return any(next(devices.glob(pattern), None) is not None for pattern in _DEVICE_FILES)
