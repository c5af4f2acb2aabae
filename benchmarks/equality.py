"""Shows that speculation changes no token: prompts through the real services, incrementally and with every way to draft.

    python -m benchmarks.equality --precision bfloat16 --num-prompts 500 --max-tokens 128 --modes merged

Greedy and sampled (temperature 0.8, top-p 0.95, a seed per prompt). Requests run many at a time and finish at different
times, so each output is also made in ever-changing batches. Exits with 1 where an output differs, after naming it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.prompts import load_prompts
from specgrove.client import AsyncClient
from specgrove.client.output import Completion
from specgrove.config import DEVICES, QUANTIZATIONS
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite, SuiteConfig

SSMS = ("lookup", "demo,name=beam,mode=beam", "demo,name=expansion,mode=expansion")
# Shapes are set here because a policy may find that drafting doesn't pay at this batch size, and nothing would be shown.
MODES = {
    "beam": SpeculationOptions(ssms=("beam",), max_num_nodes=4, max_depth=3),
    "expansion": SpeculationOptions(ssms=("expansion",), max_num_nodes=6, max_depth=5),
    "lookup": SpeculationOptions(ssms=("lookup",), max_num_nodes=4, max_depth=4),
    "merged": SpeculationOptions(max_num_nodes=6, max_depth=4),
}
SAMPLINGS = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 0.8, "top_p": 0.95}}


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant against incremental decoding."""

    sampling: str
    mode: str
    num_equal: int
    num_prompts: int
    num_tokens: int
    num_drafted: int
    mean_acceptance_len: float
    seconds: float


async def outputs(
    client: AsyncClient,
    prompts: list[str],
    sampling: str,
    speculation: SpeculationOptions,
    arguments: argparse.Namespace,
) -> list[Completion]:
    """All prompts, ``--concurrency`` at a time, in order."""
    places = asyncio.Semaphore(arguments.concurrency)

    async def complete(index: int) -> Completion:
        async with places:
            return await client.complete(
                [("user", prompts[index])],
                max_tokens=arguments.max_tokens,
                seed=1000 + index,
                speculation=speculation,
                **SAMPLINGS[sampling],  # type: ignore[arg-type]
            )

    return list(await asyncio.gather(*(complete(index) for index in range(len(prompts)))))


def report_difference(prompt: str, mode: str, expected: Completion, found: Completion) -> None:
    """Where two outputs part."""
    for index, (left, right) in enumerate(zip(expected.token_ids, found.token_ids, strict=False)):
        if left != right:
            print(f"  {mode}: {prompt[:60]!r} differs at token {index}: {left} incremental, {right} speculative")
            return
    print(f"  {mode}: {prompt[:60]!r} differs in length: {len(expected.token_ids)}, {len(found.token_ids)}")


async def compare(address: str, prompts: list[str], arguments: argparse.Namespace) -> list[Row]:
    """A row per sampling and mode, printed as it is ready."""
    rows = []
    async with AsyncClient(address) as client:
        for sampling in SAMPLINGS:
            started_s = time.monotonic()
            expected = await outputs(client, prompts, sampling, SpeculationOptions(disabled=True), arguments)
            print(f"{sampling:8} incremental: {time.monotonic() - started_s:.0f} s", flush=True)
            for mode in arguments.modes:
                speculation = MODES[mode]
                started_s = time.monotonic()
                found = await outputs(client, prompts, sampling, speculation, arguments)
                equal = [left.token_ids == right.token_ids for left, right in zip(expected, found, strict=True)]
                for index in (index for index, is_equal in enumerate(equal) if not is_equal):
                    report_difference(prompts[index], mode, expected[index], found[index])
                num_tokens = sum(completion.usage.num_output_tokens for completion in found)
                num_steps = sum(completion.usage.num_verify_steps for completion in found)
                num_drafted = sum(completion.usage.num_drafted_nodes for completion in found)
                seconds = time.monotonic() - started_s
                row = Row(
                    sampling, mode, sum(equal), len(prompts), num_tokens, num_drafted, num_tokens / num_steps, seconds
                )
                print(
                    f"{sampling:8} {mode:10} {row.num_equal} of {row.num_prompts} identical, {num_tokens} tokens, "
                    f"{row.mean_acceptance_len:.2f} tokens per step, {seconds:.0f} s",
                    flush=True,
                )
                rows.append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return rows


def _print_warnings(service: str, line: str) -> None:
    """Of a service's log: why it can't start, or doesn't run what was asked for."""
    if any(level in line for level in ("WARNING", "ERROR")):
        print(f"{service}: {line}", file=sys.stderr, flush=True)


def main() -> int:
    """0 when all outputs are identical."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equality", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16", "float16", "int8", "int4"),
        help="of the LLM; quantised weights compute in bfloat16, as all SSMs do then",
    )  # fmt: skip
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--device", default="auto", choices=DEVICES, help="of all models")
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    prompts = load_prompts(arguments.num_prompts)
    is_quantized = arguments.precision in QUANTIZATIONS
    device = ("--device", arguments.device)
    if arguments.device == "cuda" and arguments.precision != "float32":
        device += ("--gpu-kernels", "require")  # else nothing would be shown of them
    config = SuiteConfig(
        llm_folder=folder,
        ssms=SSMS,
        dtype="bfloat16" if is_quantized else arguments.precision,
        llm_arguments=(*device, *(("--quantization", arguments.precision) if is_quantized else ())),
        ssm_arguments=device,
    )
    with Suite(config, log_line=_print_warnings) as suite:
        rows = asyncio.run(compare(suite.address, prompts, arguments))
    if not all(row.num_drafted > 0 for row in rows):
        print("nothing was drafted: nothing is shown")
        return 1
    return 0 if all(row.num_equal == row.num_prompts for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
