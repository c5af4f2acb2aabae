"""The command line of ``python -m llm_service``: flags to ``LlmServiceConfig``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llm_service.config import MAX_NUM_TREE_NODES, LlmServiceConfig, Offload
from specgrove.config import DEVICES, GPU_KERNELS, QUANTIZATIONS
from specgrove.cpus import available_cpus
from specgrove.models.decoder import DTYPES
from specgrove.models.hub import DEMO_LLM
from specgrove.models.memory_plan import parse_bytes
from specgrove.models.parallel_layout import ParallelLayout


def parse_arguments(argv: Sequence[str] | None = None) -> LlmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.max_model_len is not None and arguments.max_model_len < 2:
        parser.error("--max-model-len must be at least 2")
    if arguments.kv_memory is not None and arguments.memory_per_gpu is not None:
        parser.error("--kv-memory and --memory-per-gpu both set the number of KV slots: give one of them")
    for flag, unit in (
        ("session_ttl_s", "seconds"),
        ("drain_timeout_s", "seconds"),
        ("stream_interval_ms", "milliseconds"),
    ):
        if not 0 <= getattr(arguments, flag) < 1e9:
            parser.error(f"--{flag.replace('_', '-')} must be {unit}, 0 or more")
    for flag in ("threads", "kv_slots", "max_chunk_tokens", "tensor_parallel"):
        if getattr(arguments, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')} must be at least 1")
    if arguments.max_tree_rows < MAX_NUM_TREE_NODES:
        parser.error(f"--max-tree-rows must be at least {MAX_NUM_TREE_NODES}, the nodes that one tree may have")
    return LlmServiceConfig(
        address=arguments.address,
        model=arguments.model,
        dtype=arguments.dtype,
        device=arguments.device,
        gpu_kernels=arguments.gpu_kernels,
        quantization=arguments.quantization,
        cache_dir=arguments.cache_dir,
        layout=_layout(arguments, parser),
        num_threads=arguments.threads,
        num_slots=arguments.kv_slots,
        kv_memory_bytes=arguments.kv_memory,
        memory_per_rank_bytes=arguments.memory_per_gpu,
        offload=_offload(arguments),
        max_model_len=arguments.max_model_len,
        max_num_chunk_tokens=arguments.max_chunk_tokens,
        max_num_tree_rows=arguments.max_tree_rows,
        session_ttl_s=arguments.session_ttl_s,
        stream_interval_s=arguments.stream_interval_ms / 1e3,
        drain_timeout_s=arguments.drain_timeout_s,
    )


def _offload(arguments: argparse.Namespace) -> Offload | None:
    if arguments.max_weight_memory is None and not arguments.offload:
        return None
    return Offload(arguments.max_weight_memory, arguments.offload_reserve_bytes)


def _layout(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> ParallelLayout:
    """``--pipeline-parallel`` is a number of stages, or the numbers of their layers."""
    try:
        numbers = [int(number) for number in arguments.pipeline_parallel.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        parser.error("--pipeline-parallel must be a number of stages (2), or the stages' numbers of layers (10,12,8)")
    if len(numbers) == 1:
        return ParallelLayout(arguments.tensor_parallel, numbers[0])
    return ParallelLayout(arguments.tensor_parallel, len(numbers), tuple(numbers))


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_service",
        description="Serves a large model as token-tree verifier over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--address", default="127.0.0.1:50052", help="HOST:PORT or unix:/path to listen on")
    add("--model", default=DEMO_LLM, help="model folder, .gguf file, hub id, or the demo model's name")
    add("--dtype", default="bfloat16", choices=sorted(DTYPES), help="of weights and KV cache")
    add("--device", default="auto", choices=DEVICES, help="where the model runs; auto: on a GPU if there is one")
    add(
        "--gpu-kernels", default="auto", choices=GPU_KERNELS,
        help="on a GPU; auto: where they can run the model and pass a check at the start; off: ops of torch; require: nothing else",
    )  # fmt: skip
    add("--quantization", default="none", choices=QUANTIZATIONS, help="of weights: made once and kept in --cache-dir")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="ranks that share every layer")
    add(
        "--pipeline-parallel", default="1", metavar="N|L,L,…",
        help="stages that the layers are divided over: their number, or each stage's number of layers",
    )  # fmt: skip
    add("--threads", type=int, default=available_cpus(), help="threads of the CPU kernels, of all ranks together")
    add("--kv-slots", type=int, default=32768, help="one-token KV slots, shared by all sessions")
    add(
        "--kv-memory", type=_bytes, metavar="BYTES", help="memory of each rank's KV slots (2GiB), instead of --kv-slots"
    )
    add(
        "--memory-per-gpu", type=_bytes, metavar="BYTES",
        help="all the memory that a rank may take, on a CPU too: KV slots get what is left; instead of --kv-slots",
    )  # fmt: skip
    add(
        "--offload", action="store_true",
        help="weights that don't fit: on a GPU in the host's pinned memory, on a CPU in a file; fetched a layer ahead",
    )  # fmt: skip
    add(
        "--max-weight-memory", type=_bytes, metavar="BYTES",
        help="with --offload, and implies it: memory of each rank's weights; unset: what is available",
    )  # fmt: skip
    add(
        "--offload-reserve-bytes", type=_bytes, default=1 << 30, metavar="BYTES",
        help="with --offload: memory that is left to others",
    )  # fmt: skip
    add("--max-model-len", type=int, help="longest prompt + output in tokens; unset: what the model allows")
    add("--max-chunk-tokens", type=int, default=256, help="rows of one forward pass that prompts may fill")
    add("--max-tree-rows", type=int, default=512, help="rows of one forward pass that token trees may fill")
    add("--session-ttl-s", type=float, default=300.0, help="seconds after which an idle session is forgotten")
    add(
        "--stream-interval-ms", type=float, default=20.0, metavar="MS",
        help="least time between two messages of an output decoded without trees: tokens go out together; 0: each at once",
    )  # fmt: skip
    add("--drain-timeout-s", type=float, default=30.0, help="seconds that work may go on after SIGTERM")
    add("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove", help="converted models")
    return parser
