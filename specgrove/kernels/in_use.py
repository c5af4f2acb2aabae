"""Which kernels run on this machine, and why: told by ``python -m specgrove.kernels`` and ``specgrove doctor``."""

from __future__ import annotations

import torch

from specgrove.kernels.cuda.backend import KernelsMissingError, kernels_for
from specgrove.kernels.cuda.start_check import check_kernels_apart
from specgrove.kernels.device_memory import AttentionHeads

REASONS = {
    "amx": "the processor has AMX with tiles of bfloat16 and int8",
    "amx_twin": "a test asked for the kernels of AMX over tiles in plain C++",
    "avx512": "the processor has AVX-512 with BF16 and VNNI",
    "avx2": "the processor has AVX2, but no AVX-512 with BF16 and VNNI",
    "plain": "the processor has neither AVX-512 with BF16 and VNNI nor AVX2",
}
"""Why the CPU kernels use these instructions."""


def gpu_lines() -> list[str]:
    """The GPUs that torch finds, and whether kernels for them are there."""
    try:
        built = f"kernels for {kernels_for(torch.device('cuda')).architectures()}"
    except KernelsMissingError as error:
        built = f"no kernels: {error}"
    if not torch.cuda.is_available():
        return [f"GPU           none that torch {torch.__version__} finds; {built}"]
    lines = []
    for index in range(torch.cuda.device_count()):
        torch.cuda.set_device(index)
        gpu = torch.cuda.get_device_properties(index)
        lines.append(f"GPU           {gpu.name}, compute capability {gpu.major}.{gpu.minor}; {built}")
        lines.append(f"in use        {gpu_verdict(torch.device('cuda', index))}")
    return lines


def gpu_verdict(device: torch.device) -> str:
    """Which kernels a model in bfloat16 would run on there, and why."""
    try:
        check_kernels_apart(AttentionHeads(32, 8, 128), torch.bfloat16, device)
    except RuntimeError as error:
        return f"ops composed from torch's own: {error}"
    return "the kernels for GPUs: they are as exact as torch there, and rows keep their bits among others"
