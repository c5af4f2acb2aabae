"""Tokens per second over gRPC, speculative and incremental, beside what people can pick instead: ``make bench``, ``make bench-cpu-peers``.

    python -m benchmarks.serving --batches 1 8 --rounds 5 --max-tokens 128 --precisions bfloat16 int8 int4 --json rows.json

Starts the real services, a suite for every precision. In every round all contestants answer the same prompts in turn (A B C A B C ...),
so that a noisy machine slows them all; reported are the median over rounds, the spread (min to max), and ratios of medians. Outputs
end at the end-of-sequence token or ``--max-tokens``; only tokens that were put out count. Every rate also stands as a share of the limit:
reading the weights once a step at the bandwidth that was measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.contestants import Absent, Contestant, OverGrpc, PeerError, PeerProcess, Transformers
from benchmarks.host import ON_CPU, conditions
from benchmarks.report import print_table, write_chart, write_json
from benchmarks.rounds import Prompts, measure
from specgrove.client import AsyncClient
from specgrove.config import DEFAULT_SSMS
from specgrove.kernels.bandwidth import ReadBandwidth
from specgrove.kernels.threads import get_isa
from specgrove.machine.folders import default_cache_dir
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.suite.processes import Suite, SuiteConfig

# By the option that names a peer's interpreter: its name, its program, the GGUF files that it reads, and prompts that it takes at once.
GGUF_PEERS = {
    "llama_cpp_python": ("llama.cpp", "llama_cpp_peer.py", ("BF16", "Q8_0", "Q4_0", "Q4_1"), 1),
    "openvino_python": ("OpenVINO GenAI", "openvino_peer.py", ("F16", "Q8_0", "Q4_0"), 64),
}


def suite_config(folder: Path, ssms: tuple[str, ...], precision: str) -> SuiteConfig:
    """SSMs compute in the LLM's dtype; they are not quantised."""
    if precision in ("int8", "int4"):
        return SuiteConfig(
            llm_folder=folder, ssms=ssms, llm_arguments=(*ON_CPU, "--quantization", precision), ssm_arguments=ON_CPU
        )
    return SuiteConfig(llm_folder=folder, ssms=ssms, dtype=precision, llm_arguments=ON_CPU, ssm_arguments=ON_CPU)


def step_bytes(spec: DecoderSpec, precision: str) -> int:
    """Weights that one step of ours reads: all linears and the head, not the embedding."""
    is_quantized = precision in ("int8", "int4")
    dtype = "bfloat16" if is_quantized else precision
    request = MemoryRequest(dtype, precision if is_quantized else None, ParallelLayout(), 0, 0, 0)
    table_bytes = spec.vocab_size * (spec.embedding_size or spec.hidden_size) * (4 if dtype == "float32" else 2)
    return plan_memory(spec, request)[0].weight_bytes - table_bytes


async def connect(address: str) -> AsyncClient:
    """A client of the running event loop."""
    return AsyncClient(address)


def start_peers(
    arguments: argparse.Namespace, folder: Path, console: Console, running: contextlib.ExitStack
) -> list[tuple[Contestant, int]]:
    """The peers that are installed, with the bytes that a step of each reads."""
    peers: list[tuple[Contestant, int]] = []

    def start(
        python: str, program: str, first: Path, *more: str, name: str, precision: str, max_batch: int
    ) -> Contestant:
        console.print(f"starting {name} {precision}")
        try:
            peer = PeerProcess(
                python, program, [str(first), *more], name=name, precision=precision, max_batch=max_batch
            )
        except PeerError as error:
            console.print(str(error), markup=False)
            return Absent(name, precision, max_batch, error)
        running.callback(peer.close)
        return peer

    num_threads = str(len(os.sched_getaffinity(0)))
    for option, (name, program, kinds, max_batch) in GGUF_PEERS.items():
        if (python := getattr(arguments, option)) is None:
            continue
        from benchmarks.peer_models import demo_gguf

        for kind in kinds:
            path = demo_gguf(kind, arguments.cache_dir, console.print)
            peer = start(python, program, path, num_threads, name=name, precision=kind, max_batch=max_batch)
            peers.append((peer, path.stat().st_size))
    if arguments.vllm_python is not None:
        peer = start(arguments.vllm_python, "vllm_peer.py", folder, name="vLLM CPU", precision="bfloat16", max_batch=64)
        peers.append((peer, step_bytes(read_spec(folder), "bfloat16")))
    return peers


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batches", type=int, nargs="+", default=[1, 8])
    add("--rounds", type=int, default=5)
    add("--prompts-per-round", type=int, default=2, help="at batch 1")
    add("--max-tokens", type=int, default=128)
    add(
        "--precisions", nargs="+", default=["bfloat16", "int8", "int4"], choices=("float32", "bfloat16", "int8", "int4"),
        help="of our LLM; quantised weights compute in bfloat16",
    )  # fmt: skip
    add("--llm", default=DEMO_LLM)
    add("--ssm", action="append", help="as for `specgrove serve`; repeatable")
    add("--no-transformers", action="store_true")
    add("--assisted", action="store_true", help="transformers' own assisted generation too")
    add("--llama-cpp-python", metavar="PYTHON", help="an interpreter with llama-cpp-python; with the demo model only")
    add("--openvino-python", metavar="PYTHON", help="an interpreter with openvino-genai; with the demo model only")
    add("--vllm-python", metavar="PYTHON", help="an interpreter with vLLM's CPU build")
    add("--cache-dir", type=Path, default=default_cache_dir())
    add("--json", type=Path, help="write the rows here, and a chart beside them (PNG)")
    return parser.parse_args()


def main() -> int:
    """Measures, prints, and writes JSON and a chart when asked."""
    arguments = parse_arguments()
    console = Console(width=150 if not sys.stdout.isatty() else None, soft_wrap=True)
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=console.print)
    spec = read_spec(folder)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS
    loop = asyncio.new_event_loop()
    bandwidth = ReadBandwidth(len(os.sched_getaffinity(0)))
    with contextlib.ExitStack() as running:
        contestants: list[tuple[Contestant, int]] = []
        clients = []
        for precision in arguments.precisions:
            console.print(f"starting specgrove in {precision}")
            suite = running.enter_context(Suite(suite_config(folder, ssms, precision)))
            clients.append(loop.run_until_complete(connect(suite.address)))
            for is_speculative in (False, True):
                ours = OverGrpc(clients[-1], loop, precision, is_speculative=is_speculative)
                contestants.append((ours, step_bytes(spec, precision)))
        if not arguments.no_transformers:
            contestants.append((Transformers(folder), step_bytes(spec, "bfloat16")))
        if arguments.assisted:
            contestants.append((Transformers(folder, has_prompt_lookup=True), step_bytes(spec, "bfloat16")))
        contestants += start_peers(arguments, folder, console, running)
        prompts = Prompts.of(folder)
        rows = [
            row
            for batch in arguments.batches
            for row in measure(contestants, batch, prompts, arguments, bandwidth, console.print)
        ]
        for client in clients:
            loop.run_until_complete(client.close())
    facts = conditions() | {
        "instructions": f"CPU kernels in {get_isa()}",
        "read bandwidth": f"{min(bandwidth.all_gb_per_s):.0f} to {max(bandwidth.all_gb_per_s):.0f} GB/s",
        "model": f"{folder.name}, up to {arguments.max_tokens} tokens, {arguments.rounds} rounds",
    }
    print_table(rows, console)
    console.print(", ".join(facts.values()))
    if arguments.json:
        write_json(rows, facts, arguments.json)
        write_chart(rows, facts, arguments.json.with_suffix(".png"), console.print)
    return 0


if __name__ == "__main__":
    sys.exit(main())
