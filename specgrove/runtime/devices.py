"""Where a process's models run: the CPU or one of the machine's GPUs, by which ops and which runner. For both model services."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from functools import cache

import torch

from specgrove.kernels.cuda.start_check import check_kernels_apart
from specgrove.kernels.device_memory import AttentionHeads, PassLimits
from specgrove.machine.compute_place import ComputePlace
from specgrove.machine.gpus import check_enough_gpus, check_gpu_wanted
from specgrove.models.decoder.device_limits import why_not
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.planning.memory_plan import available_memory_bytes
from specgrove.program.decoder import Decoder
from specgrove.program.graphs import CudaGraphs, Graphs
from specgrove.runtime.graph_runner import GraphRunner, captured_whole
from specgrove.runtime.model_runner import DraftRunner, ModelRunner

logger = logging.getLogger(__name__)


def choose_device(name: str, local_rank: int) -> torch.device:
    """``name`` is "auto", "cpu" or "cuda". Raises ``ValueError`` where there is no GPU for this rank."""
    num_gpus = torch.cuda.device_count() if name != "cpu" else 0
    if num_gpus == 0:
        if name == "cuda":
            raise ValueError("--device cuda: torch finds no NVIDIA GPU on this machine; use --device cpu")
        return torch.device("cpu")
    check_enough_gpus(local_rank + 1, num_gpus)
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def place_of(device: torch.device, num_threads: int) -> ComputePlace:
    """Where this process computes."""
    accelerator = "" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)
    return ComputePlace.here(accelerator, num_threads)


def available_bytes(device: torch.device) -> int:
    """Memory that is still free there."""
    return available_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def has_gpu_kernels(mode: str, spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels for GPUs run a model; else ops composed from torch's do, and the log says why.

    ``mode`` is "auto", "off", or "require", which raises ``ValueError`` where the kernels can't. They are tried out first.
    """
    if device.type == "cpu":
        check_gpu_wanted("cpu", mode, has_gpu=False)
        return False
    reason = "--gpu-kernels off" if mode == "off" else why_not(spec, str(dtype).removeprefix("torch."))
    if reason is None:
        group_size = spec.num_heads // spec.num_kv_heads
        reason = _what_is_wrong(AttentionHeads(2 * group_size, 2, spec.head_dim), dtype, device)
    if reason is not None and mode == "require":
        raise ValueError(f"--gpu-kernels require: {reason}")
    if reason is not None:
        logger.warning("%s: ops of torch run instead of the kernels for GPUs, far from its speed: %s", device, reason)
    return reason is None


@cache
def _what_is_wrong(heads: AttentionHeads, dtype: torch.dtype, device: torch.device) -> str | None:
    """With the kernels; models of the same heads are checked once."""
    try:
        check_kernels_apart(heads, dtype, device)
    except RuntimeError as error:  # missing, wrong, or nothing that this card runs
        return str(error)
    return None


def runner_for(
    decoder: Decoder,
    limits: PassLimits,
    mode: str = "auto",
    make_graphs: Callable[[torch.device], Graphs] = CudaGraphs,
) -> DraftRunner:
    """For a model that this process runs alone: by captured graphs where that can be, else kernel by kernel, and the log says why.

    ``mode`` as for ``has_gpu_kernels``. Raises ``torch.OutOfMemoryError`` where graphs have no room, and with "require" all else.
    """
    if captured_whole(decoder) is None:
        return ModelRunner(decoder, limits.num_slots)

    def log_progress(num_captured: int, total: int) -> None:
        if num_captured == total or num_captured % 10 == 0:
            logger.info("captured graph %d of %d", num_captured, total)

    try:
        return GraphRunner(decoder, limits, make_graphs(decoder.device), log_progress)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if mode == "require":
            raise
        reason = " <- ".join(_causes(error))
    logger.warning("%s: kernels are launched one by one, for they can't be captured: %s", decoder.device, reason)
    # Not while the error is handled: its traceback has the KV cache of the runner that failed.
    gc.collect()
    if decoder.device.type == "cuda":
        torch.cuda.synchronize(decoder.device)
        torch.cuda.empty_cache()
    return ModelRunner(decoder, limits.num_slots)


def _causes(error: BaseException | None) -> Iterator[str]:
    """The first line of an error and of those it came from: ending a capture that has failed says only that it has."""
    while error is not None:
        yield str(error).partition("\n")[0]
        error = error.__cause__ or error.__context__
