"""Where a rank's weights lie: in the memory of its device, or as much as fits."""

from __future__ import annotations

from pathlib import Path

import torch

from specgrove.models.planning.memory_plan import gibibytes
from specgrove.program.device_weights import DeviceWeights, StreamedWeights
from specgrove.program.stores import MappedWeights, MemoryWeights, WeightStore


def weight_store(device: torch.device, max_weight_bytes: int | None, folder: Path, *, has_kernels: bool) -> WeightStore:
    """Offloads what is more than ``max_weight_bytes``: to a file in ``folder`` from the CPU's memory, to pinned memory from a GPU's.

    ``has_kernels``: those for GPUs run.
    """
    if device.type == "cpu":
        return MemoryWeights() if max_weight_bytes is None else MappedWeights(folder, max_weight_bytes)
    if max_weight_bytes is None:
        return DeviceWeights(device, has_kernels=has_kernels)
    return StreamedWeights(device, max_weight_bytes, has_kernels=has_kernels)


def describe_store(store: WeightStore) -> str | None:
    """How much is offloaded, for the log; ``None`` where nothing is."""
    if isinstance(store, MappedWeights):
        return f"{gibibytes(store.resident_bytes)} of {gibibytes(store.num_bytes)} of weights stay in memory"
    if isinstance(store, StreamedWeights):
        return f"{gibibytes(store.num_bytes)} of weights in pinned memory"
    return None
