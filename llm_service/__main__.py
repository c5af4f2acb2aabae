"""``python -m llm_service``: reads the command line, loads the model, serves until told to stop.

With more than one rank this process is the launcher (``torchrun``), which starts this module once a rank.
"""

from __future__ import annotations

import specgrove.quiet_grpc  # noqa: F401  before anything imports grpc

# isort: split
import asyncio
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from llm_service import ranks
from llm_service.arguments import parse_arguments
from llm_service.config import LlmServiceConfig, VerifierConfig
from llm_service.devices import check_offload_room, describe_store, weight_store
from llm_service.numerics import numerics_of
from llm_service.scheduler import MAX_NUM_KNOWN_ROWS
from llm_service.servicer import LlmServicer, ServedModel
from llm_service.step_timeout import step_timeout_s_of
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.cpus import too_few_for
from specgrove.folders import provide_home
from specgrove.grammars import GrammarCompiler
from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.threads import amx_refusal, get_isa, set_num_threads
from specgrove.metrics.exposition import VllmNames, make_registry
from specgrove.metrics.server import metrics_server
from specgrove.models.decoder import DTYPES, Decoder
from specgrove.models.ends import ends_of
from specgrove.models.gguf_model import weights_note
from specgrove.models.hub import resolve_model
from specgrove.models.loading import load_decoder, read_spec
from specgrove.models.memory_plan import (
    MemoryRequest,
    check_fits,
    plan_memory,
    slots_in,
    weight_bytes_left,
)
from specgrove.models.model_files import name_of, quantized_bits
from specgrove.models.quantized_cache import ensure_quantized
from specgrove.models.recommended_sampling import recommended_sampling_of
from specgrove.models.spec import DecoderSpec
from specgrove.request import PromptProgress, Verdict, VerifyWork
from specgrove.runtime.devices import available_bytes, choose_device, has_gpu_kernels, runner_for
from specgrove.runtime.model_runner import ModelRunner, Runner
from specgrove.runtime.parallel_runner import ParallelRunner, run_worker
from specgrove.runtime.pass_buffers import PassLimits
from specgrove.runtime.step_loop import HungEngineError, StepLoop
from specgrove.serving.listening import check_can_listen
from specgrove.serving.server import run_server
from specgrove.telemetry import set_up_logging
from specgrove.tokenizer import Tokenizer
from specgrove.tracing import set_up_tracing
from specgrove.v1 import llm_pb2, llm_pb2_grpc

logger = logging.getLogger("llm_service")

_STOP_TIMEOUT_S = 5.0


def load(config: LlmServiceConfig, rank: ranks.Rank | None) -> tuple[Path, Decoder, int]:
    """The model's folder, this rank's share of it, and its number of KV slots. Raises ``ValueError`` with what is wrong with the model."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    num_threads = max(1, config.num_threads // (rank.num_local if rank else 1))
    set_num_threads(num_threads)
    device = rank.device if rank else choose_device(config.device, 0)
    if device.type == "cpu":
        _warn_of_cpus(num_threads, rank)
    if rank is not None and not rank.is_first_of_machine:
        dist.barrier()  # the first rank of the machine downloads and converts
    folder = resolve_model(config.model, cache_dir=config.cache_dir, progress=logger.info)
    if rank is None or rank.rank == 0:
        # What is wrong with small files is told before large ones are read.
        ends_of(folder, Tokenizer.from_folder(folder), read_spec(folder).vocab_size)
    folder = ensure_quantized(folder, config.quantization, config.cache_dir, logger.info)
    if (note := weights_note(folder, config.dtype)) is not None:
        logger.info("%s", note)
    has_kernels = has_gpu_kernels(config.gpu_kernels, read_spec(folder), DTYPES[config.dtype], device)
    request = plan(config, folder, rank, device, has_kernels=has_kernels)
    if rank is not None and rank.is_first_of_machine:
        dist.barrier()
    started_s = time.perf_counter()
    shard = None if rank is None else config.layout.shard_of(rank.rank, read_spec(folder))
    group = None if rank is None else rank.links.tensor_group
    offload_folder = config.cache_dir / "offload"
    if device.type == "cpu":
        check_offload_room(read_spec(folder), request, 0 if rank is None else rank.rank, offload_folder)
    store = weight_store(device, request.max_weight_bytes, offload_folder, has_kernels=has_kernels)
    decoder = load_decoder(folder, DTYPES[config.dtype], _log_progress, shard, group, store)
    if (offloaded := describe_store(store)) is not None:
        logger.info("%s", offloaded)
    where = f"{num_threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    logger.info(
        "%s: %.0fM parameters in %s, loaded in %.1f s; %s",
        name_of(folder), decoder.spec.num_parameters / 1e6, config.dtype, time.perf_counter() - started_s, where,
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


def warn_of_text(model: ServedModel) -> None:
    """What the tokenizer's files and configurations lack, though the model can be served."""
    if not model.ends.text:
        logger.warning(
            "no eos_token_id in generation_config.json or config.json, and no eos_token in the tokenizer's files: only stop texts, "
            "stop tokens and max_tokens end an output"
        )
    if (num_ids := model.tokenizer.num_ids) > model.spec.vocab_size:
        logger.warning(
            "the tokenizer has %d token ids and the model %d: texts that need one of the others are refused",
            num_ids, model.spec.vocab_size,
        )  # fmt: skip
    if (defect := model.tokenizer.chat_template_defect) is not None:
        logger.warning("conversations can't be served: %s", defect)


def load_runner(config: LlmServiceConfig) -> tuple[Path, Runner]:
    """Folder and runner of a model that this process runs alone."""
    folder, decoder, num_slots = load(config, None)
    limits = PassLimits(
        max_num_rows=config.max_num_chunk_tokens + config.max_num_tree_rows,
        max_num_asked=config.max_num_tree_rows + MAX_NUM_KNOWN_ROWS,
        max_len=min(check_max_model_len(config, decoder.spec), num_slots),
        num_slots=num_slots,
    )
    return folder, runner_for(decoder, limits, config.gpu_kernels)


def request_of(config: LlmServiceConfig, folder: Path, device: torch.device, *, has_kernels: bool) -> MemoryRequest:
    """What the settings ask for, before anything is known of the memory that there is."""
    return MemoryRequest(
        dtype=config.dtype,
        quantization={8: "int8", 4: "int4"}.get(quantized_bits(folder) or 0),
        layout=config.layout,
        num_slots=config.num_slots,
        max_num_rows=config.max_num_chunk_tokens + config.max_num_tree_rows,
        max_num_logit_rows=config.max_num_tree_rows + MAX_NUM_KNOWN_ROWS,
        max_weight_bytes=None if config.offload is None else config.offload.max_weight_bytes,
        on_gpu=device.type == "cuda",
        num_gpu_processors=num_processors(device) if has_kernels else None,
        max_len=config.max_model_len,
    )


def plan(
    config: LlmServiceConfig, folder: Path, rank: ranks.Rank | None, device: torch.device, *, has_kernels: bool
) -> MemoryRequest:
    """The number of KV slots and the limits. Says what memory will be taken; raises ``DoesNotFitError`` where there is less."""
    spec, request = read_spec(folder), request_of(config, folder, device, has_kernels=has_kernels)
    if config.kv_memory_bytes is not None or config.memory_per_rank_bytes is not None:
        num_slots = slots_in(spec, request, kv_bytes=config.kv_memory_bytes, rank_bytes=config.memory_per_rank_bytes)
        request = replace(request, num_slots=num_slots)
    available = available_bytes(device)
    sharing = range(1) if rank is None else rank.sharing_memory
    if config.offload is not None and request.max_weight_bytes is None:
        left = weight_bytes_left(spec, request, available - config.offload.reserve_bytes, sharing)
        request = replace(request, max_weight_bytes=left)
    if rank is None or rank.rank == 0:
        for rank_plan in plan_memory(spec, request):
            logger.info("memory of %s", rank_plan)
    if rank is None or rank.rank == sharing.start:
        check_fits(spec, request, available, sharing)
    return request


async def serve(
    config: LlmServiceConfig, folder: Path, runner: Runner, liveness_failed: asyncio.Future[object] | None
) -> None:
    """Serves until a signal. Raises ``ValueError`` for a wrong setting, ``RuntimeError`` when the engine or a rank fails."""
    verifier = VerifierConfig(
        min(check_max_model_len(config, runner.spec), runner.num_slots),
        max_num_chunk_tokens=config.max_num_chunk_tokens,
        max_num_tree_rows=config.max_num_tree_rows,
        session_ttl_s=config.session_ttl_s,
        stream_interval_s=config.stream_interval_s,
    )
    is_cut = verifier.max_model_len < check_max_model_len(config, runner.spec)
    logger.info("context %d tokens%s", verifier.max_model_len, ", as many as there are KV slots" if is_cut else "")
    tokenizer = Tokenizer.from_folder(folder)
    engine = VerifierEngine(runner, verifier, structures=Structures(GrammarCompiler(tokenizer)))
    model = ServedModel(
        name=name_of(folder),
        folder=folder,
        dtype=config.dtype,
        max_model_len=verifier.max_model_len,
        max_num_tree_nodes=verifier.max_num_tree_nodes,
        ends=ends_of(folder, tokenizer, runner.spec.vocab_size),
        numerics=numerics_of(config, folder, runner.decoder),
        spec=runner.spec,
        tokenizer=tokenizer,
        recommended_sampling=recommended_sampling_of(folder),
    )
    logger.info("numerics: %s", ", ".join(model.numerics))
    warn_of_text(model)
    step_timeout_s = step_timeout_s_of(config, runner.spec, runner.decoder.device)
    loop: StepLoop[VerifyWork, Verdict | PromptProgress] = StepLoop(engine, "verifier", step_timeout_s=step_timeout_s)
    tracing = set_up_tracing("llm_service", config.tracing)
    servicer = LlmServicer(model, engine, loop, runner.num_slots, tracing)
    vllm = VllmNames(lambda: model.name) if config.has_vllm_metrics else None
    sources = (servicer.load.readings, engine.counts.readings, servicer.streams.readings)
    try:
        with metrics_server(config.metrics_address, make_registry("llm_service", sources, vllm)):
            await run_server(
                config.address,
                lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
                service_names=(llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name,),
                drain=servicer.drain,
                drain_timeout_s=config.drain_timeout_s,
                stopped=_first(asyncio.wrap_future(loop.ended), liveness_failed),
                hang_timeout_s=step_timeout_s,
            )
    finally:
        has_ended = loop.stop(_STOP_TIMEOUT_S)
        tracing.shut_down()
    if not has_ended:
        raise RuntimeError(f"the step under way has not ended in {_STOP_TIMEOUT_S:.0f} s")


def check_max_model_len(config: LlmServiceConfig, spec: DecoderSpec) -> int:
    """The longest sequence. Raises ``ValueError`` where the model has fewer positions."""
    max_positions = spec.max_position_embeddings
    max_model_len = config.max_model_len or max_positions
    if max_model_len > max_positions:
        raise ValueError(f"--max-model-len {max_model_len} is more than the model's {max_positions} positions")
    return max_model_len


async def _first(*futures: asyncio.Future[object] | None) -> None:
    """Until one of them is done; raises what it raises."""
    done, _ = await asyncio.wait([f for f in futures if f is not None], return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


async def serve_rank_0(config: LlmServiceConfig, folder: Path, runner: ModelRunner, rank: ranks.Rank) -> None:
    """``serve`` over all ranks."""
    assert rank.liveness is not None
    rank.liveness.limit_steps(step_timeout_s_of(config, runner.spec, rank.device))
    parallel = ParallelRunner(runner, rank.links, rank.liveness)
    await serve(config, folder, parallel, asyncio.wrap_future(rank.liveness.failed))
    rank.liveness.expect_ends()
    parallel.stop_workers()
    rank.liveness.wait_for_ends(_STOP_TIMEOUT_S)


def run_rank(config: LlmServiceConfig) -> None:
    """One of several ranks. Ends the process where it fails: the other ranks may never answer again."""
    try:
        rank = ranks.join(config, os.environ)
        folder, decoder, num_slots = load(config, rank)
        runner = ModelRunner(decoder, num_slots)
        if rank.liveness is not None:
            asyncio.run(serve_rank_0(config, folder, runner, rank))
        else:
            run_worker(runner, rank.links)
    except Exception as error:
        # What rank 0 failed for is what people should see; the others then fail for rank 0.
        is_consequence = os.environ["RANK"] != "0" and isinstance(error, RuntimeError)
        logger.log(logging.INFO if is_consequence else logging.ERROR, "%s", error)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # the groups of torch.distributed would wait for each other


def check_layout(config: LlmServiceConfig) -> None:
    """Before ranks are started: raises ``ValueError`` where the model can't be divided so, or the settings don't suit it."""
    folder = resolve_model(config.model, cache_dir=config.cache_dir, progress=logger.info)
    spec = read_spec(folder)
    check_max_model_len(config, spec)
    plan_memory(spec, request_of(config, folder, torch.device("cpu"), has_kernels=False))


def _log_progress(num_layers: int, total: int) -> None:
    if num_layers == total or num_layers % 10 == 0:
        logger.info("loaded layer %d of %d", num_layers, total)


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    config = parse_arguments()
    is_rank = ranks.is_rank(os.environ)
    set_up_logging(
        f"llm_service[{os.environ['RANK']}]" if is_rank else "llm_service", config.log_level, config.log_format
    )
    if is_rank:
        run_rank(config)
    try:
        provide_home()
        if config.layout.num_ranks > 1:
            for address in filter(None, (config.address, config.metrics_address)):
                check_can_listen(address)
            check_layout(config)
            return ranks.launch(config.layout, sys.argv[1:], config.drain_timeout_s)
        for address in filter(None, (config.address, config.metrics_address)):
            check_can_listen(address)  # loading may take minutes
        asyncio.run(serve(config, *load_runner(config), None))
    except HungEngineError as error:
        logger.error("%s; ending, to be started again", error)
        sys.stderr.flush()
        os._exit(1)  # whatever waits for its thread would wait for ever
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
