"""Shows that spreading the LLM over ranks changes no token: prompts through the real services, on one rank and on several.

    python -m benchmarks.parallel_equality --num-prompts 50 --max-tokens 64

Greedy and sampled with seeds, speculation on. Prints each rank's peak memory beside its share of the weights. Exits with 1 where an
output differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

from benchmarks.equality import SAMPLINGS, SSMS, outputs, report_difference
from benchmarks.kept_outputs import KeptOutputs, Output
from benchmarks.prompts import load_prompts
from specgrove.client import AsyncClient
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite, SuiteConfig

LAYOUTS = ((1, "1"), (2, "1"), (1, "2"), (1, "3"), (1, "5,20,5"), (2, "2"))


def peak_memory_bytes(launcher_pid: int) -> list[int]:
    """Peak resident bytes of each rank; of the process itself where there is one rank."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{launcher_pid}/task/{launcher_pid}/children").read_text().split()
        return [_peak_bytes(int(pid)) for pid in children] or [_peak_bytes(launcher_pid)]
    return []


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def print_problem(service: str, line: str) -> None:
    """Of what services print, what should not be there."""
    if any(word in line for word in ("ERROR", "WARNING", "Error", "ended with")):
        print(f"  {service}: {line}", flush=True)


async def run(address: str, prompts: list[str], arguments: argparse.Namespace) -> dict[str, list[Output]]:
    """All outputs by sampling."""
    async with AsyncClient(address) as client:
        kept = KeptOutputs(None, {})
        return {sampling: await outputs(client, prompts, sampling, "merged", kept, arguments) for sampling in SAMPLINGS}


def main() -> int:
    """0 when all outputs are identical."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel_equality", description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--num-prompts", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    prompts = load_prompts(arguments.num_prompts)
    expected: dict[str, list[Output]] = {}
    num_different = 0
    for tensor_parallel, pipeline_parallel in LAYOUTS:
        config = SuiteConfig(
            llm_folder=folder,
            ssms=SSMS,
            dtype=arguments.dtype,
            llm_arguments=(
                *("--tensor-parallel", str(tensor_parallel), "--pipeline-parallel", pipeline_parallel),
                *("--kv-slots", "16384"),
            ),
        )
        with Suite(config, log_line=print_problem) as suite:
            started_s = time.monotonic()
            found = asyncio.run(run(suite.address, prompts, arguments))
            memory = peak_memory_bytes(suite.pid("llm_service") or 0)
        expected = expected or found
        name = f"TP {tensor_parallel}, PP {pipeline_parallel}"
        for sampling in SAMPLINGS:
            pairs = list(zip(prompts, expected[sampling], found[sampling], strict=True))
            different = [pair for pair in pairs if pair[1].token_ids != pair[2].token_ids]
            for prompt, left, right in different:
                report_difference(prompt, name, left, right)
            num_different += len(different)
            num_tokens = sum(len(output.token_ids) for output in found[sampling])
            num_steps = sum(output.num_steps for output in found[sampling])
            print(
                f"{name:14} {sampling:8} {len(pairs) - len(different)} of {len(pairs)} identical, "
                f"{num_tokens / num_steps:.2f} tokens per step",
                flush=True,
            )
        megabytes = ", ".join(f"{num_bytes / 1e6:.0f}" for num_bytes in memory)
        print(f"{name:14} {time.monotonic() - started_s:.0f} s; peak memory by rank: {megabytes} MB", flush=True)
    return 0 if num_different == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
