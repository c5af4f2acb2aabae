"""Where a process's models run: the CPU or one of the machine's GPUs, by which ops and which runner. For both model services."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from specgrove.kernels.cuda.attention import AttentionHeads
from specgrove.kernels.cuda.start_check import check_kernels_apart
from specgrove.models.decoder import Decoder
from specgrove.models.device_ops import why_not
from specgrove.models.memory_plan import available_memory_bytes
from specgrove.models.spec import DecoderSpec
from specgrove.runtime.graph_runner import CudaGraphs, GraphRunner, Graphs
from specgrove.runtime.model_runner import DraftRunner, ModelRunner
from specgrove.runtime.pass_buffers import PassLimits

logger = logging.getLogger(__name__)


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


def has_gpu_kernels(mode: str, spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels for GPUs run a model; else ops composed from torch's do, and the log says why.

    ``mode`` is "auto" or "off". The kernels are tried out first.
    """
    if device.type == "cpu":
        return False
    reason = "--gpu-kernels off" if mode == "off" else why_not(spec, dtype)
    if reason is None:
        group_size = spec.num_heads // spec.num_kv_heads
        try:
            check_kernels_apart(AttentionHeads(2 * group_size, 2, spec.head_dim), dtype, device)
        except RuntimeError as error:  # missing, wrong, or nothing that this card runs
            reason = str(error)
    if reason is not None:
        logger.warning("%s: ops of torch run instead of the kernels for GPUs, far from its speed: %s", device, reason)
    return reason is None


def runner_for(
    decoder: Decoder, limits: PassLimits, make_graphs: Callable[[torch.device], Graphs] = CudaGraphs
) -> DraftRunner:
    """For a model that this process runs alone: by captured graphs where that can be, else kernel by kernel, and the log says why."""
    if not decoder.can_be_captured:
        return ModelRunner(decoder, limits.num_slots)

    def log_progress(num_captured: int, total: int) -> None:
        if num_captured == total or num_captured % 10 == 0:
            logger.info("captured graph %d of %d", num_captured, total)

    try:
        return GraphRunner(decoder, limits, make_graphs(decoder.device), log_progress)
    except RuntimeError as error:
        logger.warning("%s: kernels are launched one by one, for they can't be captured: %s", decoder.device, error)
        return ModelRunner(decoder, limits.num_slots)
