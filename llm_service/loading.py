"""From settings to a model that runs: found, measured against the memory that there is, loaded. Called by ``__main__``.

Invariant: what is wrong with a model or a setting is a ``ValueError`` before weights are read, as far as small files tell.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
import torch.distributed as dist

from llm_service import ranks
from llm_service.config import LlmServiceConfig
from llm_service.devices import describe_store, weight_store
from specgrove.config import MAX_NUM_KNOWN_ROWS
from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.device_memory import PassLimits
from specgrove.kernels.threads import amx_refusal, get_isa, set_isa, set_num_threads
from specgrove.machine.cpus import too_few_for
from specgrove.models.decoder.ends import ends_of
from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.gguf_model import weights_note
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.model_files import name_of
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.models.planning.fitting import OFFLOAD_FOLDER, Room, check_offload_room, settled
from specgrove.models.planning.memory_plan import MemoryRequest, check_fits, plan_memory
from specgrove.program.decoder import DTYPES, Decoder
from specgrove.program.loading import load_decoder
from specgrove.runtime.devices import available_bytes, choose_device, has_gpu_kernels, runner_for
from specgrove.runtime.model_runner import Runner
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger("llm_service")


def load(config: LlmServiceConfig, rank: ranks.Rank | None) -> tuple[Path, Decoder, int]:
    """The model's folder, this rank's share of it, and its number of KV slots. Raises ``ValueError`` with what is wrong with the model."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    num_threads = max(1, config.num_threads // (rank.num_local if rank else 1))
    set_num_threads(num_threads)
    if config.isa is not None:
        set_isa(config.isa)
    device = rank.device if rank else choose_device(config.demand.device, 0)
    if device.type == "cpu":
        _warn_of_cpus(num_threads, rank)
    if rank is not None and not rank.is_first_of_machine:
        dist.barrier()  # the first rank of the machine downloads and converts
    folder = resolve_model(config.model, cache_dir=config.cache_dir, progress=logger.info)
    if rank is None or rank.rank == 0:
        # What is wrong with small files is told before large ones are read.
        ends_of(folder, Tokenizer.from_folder(folder), read_spec(folder).vocab_size)
    folder = ensure_quantized(folder, config.demand.quantization, config.cache_dir, logger.info)
    if (note := weights_note(folder, config.demand.dtype)) is not None:
        logger.info("%s", note)
    has_kernels = has_gpu_kernels(config.demand.gpu_kernels, read_spec(folder), DTYPES[config.demand.dtype], device)
    request = plan(config, folder, rank, device, has_kernels=has_kernels)
    if rank is not None and rank.is_first_of_machine:
        dist.barrier()
    started_s = time.perf_counter()
    shard = None if rank is None else config.demand.layout.shard_of(rank.rank, read_spec(folder))
    group = None if rank is None else rank.links.tensor_group
    offload_folder = config.cache_dir / OFFLOAD_FOLDER
    if device.type == "cpu":
        check_offload_room(read_spec(folder), request, 0 if rank is None else rank.rank, offload_folder)
    store = weight_store(device, request.max_weight_bytes, offload_folder, has_kernels=has_kernels)
    decoder = load_decoder(folder, DTYPES[config.demand.dtype], _log_progress, shard, group, store)
    if (offloaded := describe_store(store)) is not None:
        logger.info("%s", offloaded)
    where = f"{num_threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    logger.info(
        "%s: %.0fM parameters in %s, loaded in %.1f s; %s",
        name_of(folder), decoder.spec.num_parameters / 1e6, config.demand.dtype, time.perf_counter() - started_s, where,
    )  # fmt: skip
    return folder, decoder, request.num_slots


def _warn_of_cpus(num_threads: int, rank: ranks.Rank | None) -> None:
    if (refusal := amx_refusal()) is not None:
        logger.warning("kernels use %s, not the processor's AMX: %s", get_isa(), refusal)
    num_ranks = 1 if rank is None else rank.num_local
    threads = "a thread" if num_threads == 1 else f"{num_threads} threads"
    crowding = too_few_for(
        threads if rank is None else f"{num_ranks} ranks with {threads} each", num_ranks * num_threads
    )
    if crowding is not None and (rank is None or rank.is_first_of_machine):
        logger.warning("%s", crowding)


def load_runner(config: LlmServiceConfig) -> tuple[Path, Runner]:
    """Folder and runner of a model that this process runs alone."""
    folder, decoder, num_slots = load(config, None)
    limits = PassLimits(
        max_num_rows=config.demand.max_num_rows,
        max_num_asked=config.demand.max_num_tree_rows + MAX_NUM_KNOWN_ROWS,
        max_model_len=min(decoder.spec.longest_sequence(config.demand.max_model_len), num_slots),
        num_slots=num_slots,
    )
    return folder, runner_for(decoder, limits, config.demand.gpu_kernels)


def plan(
    config: LlmServiceConfig, folder: Path, rank: ranks.Rank | None, device: torch.device, *, has_kernels: bool
) -> MemoryRequest:
    """The number of KV slots and the limits. Says what memory will be taken; raises ``DoesNotFitError`` where there is less."""
    spec, sharing = read_spec(folder), range(1) if rank is None else rank.sharing_memory
    room = Room(
        available_bytes=available_bytes(device),
        ranks=sharing,
        on_gpu=device.type == "cuda",
        num_gpu_processors=num_processors(device) if has_kernels else None,
    )
    request = settled(spec, config.demand, folder, room)
    if rank is None or rank.rank == 0:
        for rank_plan in plan_memory(spec, request):
            logger.info("memory of %s", rank_plan)
    if rank is None or rank.rank == sharing.start:
        check_fits(spec, request, room.available_bytes, sharing)
    return request


def _log_progress(num_layers: int, total: int) -> None:
    if num_layers == total or num_layers % 10 == 0:
        logger.info("loaded layer %d of %d", num_layers, total)
