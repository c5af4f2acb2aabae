"""``python -m llm_service``: reads the command line, loads the model, serves until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import torch

from llm_service.config import LlmServiceConfig, VerifierConfig
from llm_service.servicer import LlmServicer, ServedModel
from llm_service.verifier import VerifierEngine
from specgrove.kernels.threads import set_num_threads
from specgrove.models.decoder import DTYPES, load_decoder
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.server import run_server
from specgrove.telemetry import set_up_logging
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc

logger = logging.getLogger("llm_service")


def parse_arguments(argv: list[str] | None = None) -> LlmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_service",
        description="Serves a large model as token-tree verifier over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--address", default="127.0.0.1:50052", help="HOST:PORT or unix:/path to listen on")
    parser.add_argument("--model", default=DEMO_LLM, help="model folder, hub id, or the demo model's name")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(DTYPES), help="of weights and KV cache")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the CPU kernels")
    parser.add_argument("--kv-slots", type=int, default=32768, help="one-token KV slots, shared by all sessions")
    parser.add_argument(
        "--max-model-len", type=int, help="longest prompt + output in tokens; unset: what the model allows"
    )
    parser.add_argument(
        "--max-chunk-tokens", type=int, default=256, help="rows of one forward pass that prompts may fill"
    )
    parser.add_argument(
        "--session-ttl-s", type=float, default=300.0, help="seconds after which an idle session is forgotten"
    )
    parser.add_argument("--drain-timeout-s", type=float, default=30.0, help="seconds that work may go on after SIGTERM")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove", help="converted models")
    arguments = parser.parse_args(argv)
    if arguments.max_model_len is not None and arguments.max_model_len < 2:
        parser.error("--max-model-len must be at least 2")
    for flag in ("session_ttl_s", "drain_timeout_s"):
        if not 0 <= getattr(arguments, flag) < 1e9:
            parser.error(f"--{flag.replace('_', '-')} must be seconds, 0 or more")
    for flag in ("threads", "kv_slots", "max_chunk_tokens"):
        if getattr(arguments, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')} must be at least 1")
    return LlmServiceConfig(
        address=arguments.address,
        model=arguments.model,
        dtype=arguments.dtype,
        cache_dir=arguments.cache_dir,
        num_threads=arguments.threads,
        num_slots=arguments.kv_slots,
        max_model_len=arguments.max_model_len,
        max_num_chunk_tokens=arguments.max_chunk_tokens,
        session_ttl_s=arguments.session_ttl_s,
        drain_timeout_s=arguments.drain_timeout_s,
    )


async def serve(config: LlmServiceConfig) -> None:
    """Loads the model and serves it until a signal. Raises ``ValueError`` with what is wrong with the model or a setting."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    set_num_threads(config.num_threads)
    folder = resolve_model(config.model, cache_dir=config.cache_dir, progress=logger.info)
    started_s = time.perf_counter()
    decoder = load_decoder(folder, DTYPES[config.dtype], _log_progress)
    max_model_len = config.max_model_len or decoder.spec.max_position_embeddings
    if max_model_len > decoder.spec.max_position_embeddings:
        raise ValueError(
            f"--max-model-len {max_model_len} is more than the model's {decoder.spec.max_position_embeddings} positions"
        )
    max_model_len = min(max_model_len, config.num_slots)
    verifier = VerifierConfig(
        max_model_len, max_num_chunk_tokens=config.max_num_chunk_tokens, session_ttl_s=config.session_ttl_s
    )
    engine = VerifierEngine(ModelRunner(decoder, config.num_slots), verifier)
    logger.info(
        "%s: %.0fM parameters in %s, loaded in %.1f s; %d KV slots, context %d, %d threads",
        folder.name, decoder.num_parameters / 1e6, config.dtype, time.perf_counter() - started_s, config.num_slots,
        max_model_len, config.num_threads,
    )  # fmt: skip
    model = ServedModel(
        name=folder.name,
        folder=folder,
        dtype=config.dtype,
        max_model_len=max_model_len,
        max_num_tree_nodes=verifier.max_num_tree_nodes,
        eos_token_ids=tuple(i for i in eos_token_ids(folder) if 0 <= i < decoder.spec.vocab_size),
        decoder=decoder,
        tokenizer=Tokenizer.from_folder(folder),
    )
    loop = StepLoop(engine, "verifier")
    servicer = LlmServicer(model, engine, loop, config.num_slots)
    try:
        await run_server(
            config.address,
            lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
            service_names=(llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name,),
            drain=servicer.streams.drain,
            drain_timeout_s=config.drain_timeout_s,
            stopped=asyncio.wrap_future(loop.ended),
        )
    finally:
        loop.stop()


def _log_progress(num_layers: int, total: int) -> None:
    if num_layers == total or num_layers % 10 == 0:
        logger.info("loaded layer %d of %d", num_layers, total)


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """End-of-sequence ids: generation_config.json's, which chat models extend, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        eos = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        if eos is not None:
            return tuple(eos) if isinstance(eos, list) else (int(eos),)
    return ()


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    config = parse_arguments()
    set_up_logging("llm_service")
    try:
        asyncio.run(serve(config))
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
