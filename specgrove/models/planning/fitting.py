"""Whether a machine has what an LLM service's settings ask for: arithmetic on ``config.json`` and the memory that is free.

Asked by commands and ``specgrove doctor`` before a service is started, and by the service when it knows its devices. Imports no torch,
reads no weights. What is wrong is a ``ValueError`` that names the service's flag and what would be right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from specgrove.config import MAX_NUM_KNOWN_ROWS
from specgrove.machine.gpus import check_enough_gpus, check_gpu_wanted, may_have_gpu, most_gpus
from specgrove.models.decoder.device_limits import why_not
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.folders.disk_room import DiskNeed, check_room
from specgrove.models.folders.model_files import quantization_kind
from specgrove.models.folders.quantized_cache import needs_quantizing
from specgrove.models.planning.demand import ModelDemand
from specgrove.models.planning.memory_plan import (
    DoesNotFitError,
    MemoryRequest,
    available_memory_bytes,
    check_fits,
    gibibytes,
    plan_memory,
    slots_in,
    weight_bytes_left,
)
from specgrove.settings.values import parse_bytes

OFFLOAD_FOLDER = "offload"
"""In the cache."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where ranks run, and the memory that they share there: the machine's, or one GPU's."""

    available_bytes: int
    ranks: range
    on_gpu: bool = False
    num_gpu_processors: int | None = None
    """See ``MemoryRequest``."""


def check_before_start(demand: ModelDemand, folder: Path, cache_dir: Path, num_services: int = 1) -> None:
    """All that shows of a model that is there before a service is started for it on this machine.

    How much memory a GPU has only the service finds out. ``num_services`` of the same share the machine.
    """
    spec = read_spec(folder)
    needs_quantizing(folder, demand.quantization)  # or can't be
    if demand.gpu_kernels == "require" and (reason := why_not(spec, demand.dtype)) is not None:
        raise ValueError(f"--gpu-kernels require: {reason}")
    check_gpu_wanted(demand.device, demand.gpu_kernels, has_gpu=may_have_gpu())
    if demand.device != "cpu" and may_have_gpu():
        _check_before_gpus(spec, demand, folder)
        return
    room = Room(available_memory_bytes() // num_services, range(demand.layout.num_ranks))
    request = settled(spec, demand, folder, room)
    try:
        check_fits(spec, request, room.available_bytes, room.ranks)
    except DoesNotFitError as error:
        if num_services == 1:
            raise
        raise DoesNotFitError(f"each of {num_services} LLM services: {error}; or fewer --llm-replicas") from error
    for rank in room.ranks:
        check_offload_room(spec, request, rank, cache_dir / OFFLOAD_FOLDER)


def _check_before_gpus(spec: DecoderSpec, demand: ModelDemand, folder: Path) -> None:
    if (num_gpus := most_gpus()) is not None:
        check_enough_gpus(demand.layout.num_ranks, num_gpus)
    # What a card's memory leaves is not known yet.
    counted = replace(demand, offload=None)
    if demand.memory_per_rank_bytes is not None:
        counted = replace(counted, memory_per_rank_bytes=None, max_model_len=None)
    spec.longest_sequence(demand.max_model_len)
    settled(spec, counted, folder, Room(0, range(1), on_gpu=True))


def settled(spec: DecoderSpec, demand: ModelDemand, folder: Path, room: Room) -> MemoryRequest:
    """The demand with as many KV slots, and as much memory for weights, as it and the room make. The rest is ``check_fits``'s."""
    spec.longest_sequence(demand.max_model_len)
    request = _request_of(demand, folder, room)
    plan_memory(spec, request)  # whether it can be divided so, before all else
    kv_bytes, rank_bytes = demand.kv_memory_bytes, demand.memory_per_rank_bytes
    if kv_bytes is not None or rank_bytes is not None:
        request = replace(request, num_slots=slots_in(spec, request, kv_bytes=kv_bytes, rank_bytes=rank_bytes))
    if demand.max_model_len is not None and demand.max_model_len > request.num_slots:
        source = (
            "--kv-memory" if kv_bytes is not None else "--memory-per-gpu" if rank_bytes is not None else "--kv-slots"
        )
        raise ValueError(
            f"--max-model-len {demand.max_model_len} takes a KV slot for each token, and {source} makes {request.num_slots} slots: "
            f"give --max-model-len {request.num_slots} at most, or more {source}"
        )
    if demand.offload is not None and request.max_weight_bytes is None:
        available = room.available_bytes - demand.offload.reserve_bytes
        if available <= 0:
            reserve = parse_bytes.write(demand.offload.reserve_bytes)
            raise ValueError(
                f"--offload-reserve-bytes {reserve}: no more than {gibibytes(room.available_bytes)} are available; give less"
            )
        request = replace(request, max_weight_bytes=weight_bytes_left(spec, request, available, room.ranks))
    return request


def _request_of(demand: ModelDemand, folder: Path, room: Room) -> MemoryRequest:
    asked = None if demand.quantization == "none" else demand.quantization
    return MemoryRequest(
        dtype=demand.dtype,
        quantization=quantization_kind(folder) or asked,
        layout=demand.layout,
        num_slots=demand.num_slots,
        max_num_rows=demand.max_num_rows,
        max_num_asked=demand.max_num_tree_rows + MAX_NUM_KNOWN_ROWS,
        max_weight_bytes=None if demand.offload is None else demand.offload.max_weight_bytes,
        on_gpu=room.on_gpu,
        num_gpu_processors=room.num_gpu_processors,
        max_model_len=demand.max_model_len,
    )


def check_offload_room(spec: DecoderSpec, request: MemoryRequest, rank: int, folder: Path) -> None:
    """For a rank on the CPU. Raises ``DiskFullError`` where the file for offloaded weights, which holds all of them, won't fit."""
    if request.max_weight_bytes is not None:
        whole = plan_memory(spec, replace(request, max_weight_bytes=None))[rank]
        check_room(folder, DiskNeed("offloading the weights", whole.weight_bytes))
