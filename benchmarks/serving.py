"""Tokens per second over gRPC, speculative and incremental, beside what people can pick instead: ``make bench``, ``make bench-cpu-peers``.

    python -m benchmarks.serving --batches 1 8 --rounds 5 --max-tokens 128 --precisions bfloat16 int8 int4 --json rows.json

Starts the real services, a suite for every precision. In every round all contestants answer the same prompts in turn (A B C A B C ...),
so that a noisy machine slows them all. Peers take part plainly and with speculation of their own: by the first ``--ssm`` that is a
GGUF file, as their draft model, or by n-grams. Reported are the median over rounds, the spread (min to max), and ratios of medians.
Outputs end at the end-of-sequence token or ``--max-tokens``; only tokens that were put out count. Every rate also stands as a share of
the limit: reading the weights once a step at the bandwidth that was measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.contestants import Contestant, OverGrpc
from benchmarks.host import ON_CPU, conditions
from benchmarks.report import print_table, write_chart, write_json
from benchmarks.rounds import Prompts, measure
from benchmarks.starting_peers import Models, add_peer_options, start_peers
from specgrove.client import AsyncClient
from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.kernels.bandwidth import ReadBandwidth
from specgrove.kernels.threads import get_isa
from specgrove.machine.folders import default_cache_dir
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.suite.processes import Suite, SuiteConfig


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
    add("--prompt-set", default="alpaca", choices=("alpaca", "code"), help="instructions, or what coders ask a model")
    add_peer_options(parser)
    add("--cache-dir", type=Path, default=default_cache_dir())
    add("--json", type=Path, help="write the rows here, and a chart beside them (PNG)")
    return parser.parse_args()


def main() -> int:
    """Measures, prints, and writes JSON and a chart when asked."""
    arguments = parse_arguments()
    console = Console(width=150 if not sys.stdout.isatty() else None, soft_wrap=True)
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=console.print)
    spec = read_spec(folder)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS_ON_CPU
    loop = asyncio.new_event_loop()

    def say(line: str) -> None:
        console.print(line, markup=False)

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
        models = Models.of(folder, ssms, arguments.cache_dir, console.print)
        contestants += start_peers(arguments, models, step_bytes(spec, "bfloat16"), running, say)
        prompts = Prompts.of(folder, arguments.prompt_set)
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
        "model": f"{folder.name}, SSMs {' '.join(ssms)}, prompts {arguments.prompt_set}",
        "outputs": f"up to {arguments.max_tokens} tokens, {arguments.rounds} rounds",
    }
    print_table(rows, console)
    console.print(", ".join(facts.values()))
    if arguments.json:
        write_json(rows, facts, arguments.json)
        write_chart(rows, facts, arguments.json.with_suffix(".png"), console.print)
    return 0


if __name__ == "__main__":
    sys.exit(main())
