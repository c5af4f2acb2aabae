"""The LLM service from its model to its end: alone, or as one of several ranks. Imported by ``__main__`` when all is checked."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from llm_service import ranks
from llm_service.config import SERVICE_NAME, LlmServiceConfig, VerifierConfig
from llm_service.loading import load, load_runner
from llm_service.mask_processes import MaskProcesses
from llm_service.numerics import numerics_of
from llm_service.pass_timeout import pass_timeout_s_of
from llm_service.servicer import LlmServicer, ServedModel
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.kernels.threads import get_num_threads
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.machine.folders import provide_home
from specgrove.models.decoder.ends import ends_of
from specgrove.models.folders.model_files import name_of
from specgrove.models.folders.recommended_sampling import recommended_sampling_of
from specgrove.runtime.devices import place_of
from specgrove.runtime.model_runner import ModelRunner, Runner
from specgrove.runtime.parallel_runner import ParallelRunner, run_worker
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving import event_loop
from specgrove.serving.health import Health
from specgrove.serving.health_server import health_server
from specgrove.serving.server import run_server
from specgrove.serving.starting import ended_by_signals
from specgrove.telemetry.metrics.exposition import VllmNames, make_registry
from specgrove.telemetry.metrics.server import metrics_server
from specgrove.telemetry.tracing import set_up_tracing
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.beyond import lacking_ids
from specgrove.v1 import llm_pb2_grpc

logger = logging.getLogger("llm_service")

_STOP_TIMEOUT_S = 5.0


def warn_of_text(model: ServedModel) -> None:
    """What the tokenizer's files and configurations lack, though the model can be served."""
    if not model.ends.text:
        logger.warning(
            "no eos_token_id in generation_config.json or config.json, and no eos_token in the tokenizer's files: only stop texts, "
            "stop tokens and max_tokens end an output"
        )
    if (lacking := lacking_ids(model.tokenizer, model.spec.vocab_size)) is not None:
        logger.warning("%s", lacking)
    if (defect := model.tokenizer.chat_template_defect) is not None:
        logger.warning("conversations can't be served: %s", defect)


async def serve(
    config: LlmServiceConfig,
    health: Health,
    folder: Path,
    runner: Runner,
    liveness_failed: asyncio.Future[object] | None,
) -> None:
    """Serves until a signal. Raises ``ValueError`` for a wrong setting, ``RuntimeError`` when the engine or a rank fails."""
    verifier = VerifierConfig(
        min(runner.spec.longest_sequence(config.demand.max_model_len), runner.num_slots),
        max_num_chunk_tokens=config.demand.max_num_chunk_tokens,
        max_num_tree_rows=config.demand.max_num_tree_rows,
        session_ttl_s=config.session_ttl_s,
        stream_interval_s=config.stream_interval_s,
        has_prefix_cache=config.has_prefix_cache,
        num_walk_threads=get_num_threads(),
    )
    is_cut = verifier.max_model_len < runner.spec.longest_sequence(config.demand.max_model_len)
    logger.info("context %d tokens%s", verifier.max_model_len, ", as many as there are KV slots" if is_cut else "")
    tokenizer = Tokenizer.from_folder(folder)
    masks = MaskProcesses(tokenizer)
    engine = VerifierEngine(runner, verifier, structures=Structures(masks))
    model = ServedModel(
        name=name_of(folder),
        folder=folder,
        dtype=config.demand.dtype,
        max_model_len=verifier.max_model_len,
        max_num_tree_nodes=verifier.max_num_tree_nodes,
        ends=ends_of(folder, tokenizer, runner.spec.vocab_size),
        numerics=numerics_of(config, folder, runner.decoder),
        spec=runner.spec,
        tokenizer=tokenizer,
        recommended_sampling=recommended_sampling_of(folder),
        place=place_of(runner.decoder.device, config.num_threads),
    )
    logger.info("numerics: %s", ", ".join(model.numerics))
    warn_of_text(model)
    pass_timeout_s = pass_timeout_s_of(config, runner.spec, runner.decoder.device)
    loop: StepLoop[VerifyWork, Verdict | PromptProgress] = StepLoop(engine, "verifier", pass_timeout_s=pass_timeout_s)
    engine.structures.wake_up = loop.wake_up
    tracing = set_up_tracing("llm_service", config.tracing)
    servicer = LlmServicer(model, engine, loop, runner.num_slots, tracing)
    vllm = VllmNames(lambda: model.name) if config.has_vllm_metrics else None
    sources = (servicer.load.readings, engine.counts.readings, servicer.streams.readings)
    try:
        with metrics_server(config.metrics_address, make_registry("llm_service", sources, vllm)):
            await run_server(
                config.address,
                lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
                health=health,
                drain=servicer.drain,
                cut_off=servicer.streams.cut_off,
                drain_timeout_s=config.drain_timeout_s,
                tls=config.tls,
                stopped=_first(asyncio.wrap_future(loop.ended), liveness_failed),
                hang_timeout_s=pass_timeout_s,
            )
    finally:
        has_ended = loop.stop(_STOP_TIMEOUT_S)
        masks.close()
        tracing.shut_down()
    if not has_ended:
        raise RuntimeError(f"the step under way has not ended in {_STOP_TIMEOUT_S:.0f} s")


def run_alone(config: LlmServiceConfig, health: Health) -> None:
    """Loads the model, and serves it until a signal. Raises as ``serve`` does."""
    event_loop.run(serve(config, health, *load_runner(config), None))


async def _first(*futures: asyncio.Future[object] | None) -> None:
    """Until one of them is done; raises what it raises."""
    done, _ = await asyncio.wait([f for f in futures if f is not None], return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


async def serve_rank_0(
    config: LlmServiceConfig, health: Health, folder: Path, runner: ModelRunner, rank: ranks.Rank
) -> None:
    """``serve`` over all ranks."""
    assert rank.liveness is not None
    rank.liveness.begin_service()
    rank.liveness.limit_passes(pass_timeout_s_of(config, runner.spec, rank.device))
    parallel = ParallelRunner(runner, rank.links, rank.liveness)
    await serve(config, health, folder, parallel, asyncio.wrap_future(rank.liveness.failed))
    rank.liveness.expect_ends()
    parallel.stop_workers()
    rank.liveness.wait_for_ends(_STOP_TIMEOUT_S)


def run_rank(config: LlmServiceConfig) -> None:
    """One of several ranks. Ends the process where it fails: the other ranks may never answer again."""
    health = Health([SERVICE_NAME])
    # One of each machine answers probes; that it serves only rank 0 ever says.
    health_address = config.health_address if os.environ.get("LOCAL_RANK", "0") == "0" else None
    try:
        provide_home()
        with ended_by_signals(), health_server(health_address, health):
            rank = ranks.join(config, os.environ)
            folder, decoder, num_slots = load(config, rank)
            runner = ModelRunner(decoder, num_slots)
            if rank.liveness is not None:
                event_loop.run(serve_rank_0(config, health, folder, runner, rank))
            else:
                run_worker(runner, rank.links)
    except Exception as error:
        # What rank 0 failed for is what people should see; the others then fail for rank 0.
        is_consequence = os.environ["RANK"] != "0" and isinstance(error, RuntimeError)
        logger.log(logging.INFO if is_consequence else logging.ERROR, "%s", error)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # the groups of torch.distributed would wait for each other
