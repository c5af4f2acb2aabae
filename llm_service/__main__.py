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
from specgrove.models.decoder import DTYPES, load_decoder
from specgrove.models.hub import DEMO_LLM, check_model_folder, resolve_model
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.tokenizer import Tokenizer

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
    parser.add_argument("--max-model-len", type=int, help="longest prompt + output in tokens; unset: what the model allows")
    parser.add_argument("--max-chunk-tokens", type=int, default=256, help="rows of one forward pass that prompts may fill")
    parser.add_argument("--session-ttl-s", type=float, default=300.0, help="seconds after which an idle session is forgotten")
    parser.add_argument("--drain-timeout-s", type=float, default=30.0, help="seconds that work may go on after SIGTERM")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove", help="converted models")
    arguments = parser.parse_args(argv)
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


