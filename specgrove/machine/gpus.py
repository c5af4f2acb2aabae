"""Whether a machine has NVIDIA GPUs, found without torch: by the files of its driver. Asked before anything is started.

What is to be said where a setting asks for one that isn't there stands here, too, for those that ask torch.
"""

from __future__ import annotations

from pathlib import Path

# Of a card's driver, of Jetson's, and of Windows' for Linux inside it.
_DEVICE_FILES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg")


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """``False`` is sure; whether torch can use one only torch knows."""
    return any(next(devices.glob(pattern), None) is not None for pattern in _DEVICE_FILES)


def most_gpus(devices: Path = Path("/dev")) -> int | None:
    """No more than so many are there; ``None`` where the driver's files don't tell."""
    return len(list(devices.glob(_DEVICE_FILES[0]))) or None


def check_gpu_wanted(device: str, gpu_kernels: str, *, has_gpu: bool) -> None:
    """Raises ``ValueError`` where ``--device`` or ``--gpu-kernels`` ask for a GPU and no model will run on one."""
    if device == "cuda" and not has_gpu:
        raise ValueError("--device cuda: this machine has no NVIDIA GPU; use --device cpu")
    if gpu_kernels == "require" and device == "cpu":
        raise ValueError("--gpu-kernels require: the models run on the CPU; give --device cuda")
    if gpu_kernels == "require" and not has_gpu:
        raise ValueError("--gpu-kernels require: this machine has no NVIDIA GPU; use --gpu-kernels auto")


def check_enough_gpus(num_ranks: int, num_gpus: int) -> None:
    """Raises ``ValueError`` where ranks on this machine have none."""
    if num_ranks > num_gpus:
        raise ValueError(
            f"{num_ranks} ranks need a GPU each, and this machine has {num_gpus}: use --device cpu, or fewer ranks by "
            "--tensor-parallel and --pipeline-parallel"
        )
