"""Where a rank's model runs: the CPU or one of the machine's GPUs, how much memory that has, and the weights' place in it."""

from __future__ import annotations

from pathlib import Path

import torch

from specgrove.models.device_weights import DeviceWeights, StreamedWeights
from specgrove.models.memory_plan import available_memory_bytes, gibibytes
from specgrove.models.weight_store import MappedWeights, MemoryWeights, WeightStore


def choose_device(name: str, local_rank: int) -> torch.device:
    """``name`` is "auto", "cpu" or "cuda". Raises ``ValueError`` where there is no GPU for this rank."""
    num_gpus = torch.cuda.device_count() if name != "cpu" else 0
    if num_gpus == 0:
        if name == "cuda":
            raise ValueError("--device cuda: torch finds no NVIDIA GPU on this machine; use --device cpu")
        return torch.device("cpu")
    if local_rank >= num_gpus:
        raise ValueError(
            f"this machine has {num_gpus} GPUs, one for each rank, and more ranks: use --device cpu, or fewer"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def available_bytes(device: torch.device) -> int:
    """Memory that is still free there."""
    return available_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def weight_store(device: torch.device, max_weight_bytes: int | None, folder: Path) -> WeightStore:
    """Offloads what is more than ``max_weight_bytes``: to a file in ``folder`` from the CPU's memory, to pinned memory from a GPU's."""
    if device.type == "cpu":
        return MemoryWeights() if max_weight_bytes is None else MappedWeights(folder, max_weight_bytes)
    return DeviceWeights(device) if max_weight_bytes is None else StreamedWeights(device, max_weight_bytes)


def describe_store(store: WeightStore) -> str | None:
    """How much is offloaded, for the log; ``None`` where nothing is."""
    if isinstance(store, MappedWeights):
        return f"{gibibytes(store.resident_bytes)} of {gibibytes(store.num_bytes)} of weights stay in memory"
    if isinstance(store, StreamedWeights):
        return f"{gibibytes(store.num_bytes)} of weights in pinned memory"
    return None
