"""Shows that speculation changes no token: prompts through the real services, incrementally and with every way to draft.

    python -m benchmarks.equality --precision bfloat16 --num-prompts 500 --max-tokens 128 --modes merged
    python -m benchmarks.equality --precision int8 --num-prompts 500 --modes merged --kill-every 60 --outputs int8.jsonl

Greedy and sampled (temperature 0.8, top-p 0.95, a seed per prompt). Requests run many at a time and finish at different
times, so each output is also made in ever-changing batches. Exits with 1 where an output differs, after naming it. A run with
``--outputs`` that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.host import conditions
from benchmarks.kept_outputs import KeptOutputs, Output
from benchmarks.killing import killed_every
from benchmarks.prompts import load_prompts
from specgrove.client import AsyncClient
from specgrove.config import DEVICES, QUANTIZATIONS
from specgrove.kernels.threads import get_isa
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite, SuiteConfig

INCREMENTAL = "incremental"
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
    num_replays: int
    """Of requests whose service was gone."""
    mean_acceptance_len: float
    seconds: float


async def outputs(
    client: AsyncClient, prompts: list[str], sampling: str, mode: str, kept: KeptOutputs, arguments: argparse.Namespace
) -> list[Output]:
    """All prompts, ``--concurrency`` at a time, in order. Those kept are not made again."""
    places = asyncio.Semaphore(arguments.concurrency)
    speculation = MODES.get(mode, SpeculationOptions(disabled=True))

    async def complete(index: int) -> Output:
        if (found := kept.get(sampling, mode, index)) is not None:
            return found
        async with places:
            completion = await client.complete(
                [("user", prompts[index])],
                max_tokens=arguments.max_tokens,
                seed=1000 + index,
                speculation=speculation,
                cache_salt=f"{sampling} {mode}",  # each way reads the prompts itself
                **SAMPLINGS[sampling],  # type: ignore[arg-type]
            )
        kept.add(sampling, mode, index, made := Output.of(completion))
        return made

    return list(await asyncio.gather(*(complete(index) for index in range(len(prompts)))))


def report_difference(prompt: str, mode: str, expected: Output, found: Output) -> None:
    """Where two outputs part."""
    for index, (left, right) in enumerate(zip(expected.token_ids, found.token_ids, strict=False)):
        if left != right:
            print(f"  {mode}: {prompt[:60]!r} differs at token {index}: {left} incremental, {right} speculative")
            return
    print(f"  {mode}: {prompt[:60]!r} differs in length: {len(expected.token_ids)}, {len(found.token_ids)}")


async def compare(suite: Suite, prompts: list[str], kept: KeptOutputs, arguments: argparse.Namespace) -> list[Row]:
    """A row per sampling and mode, printed as it is ready."""
    rows = []
    async with AsyncClient(suite.address) as client:
        for sampling in arguments.samplings:
            started_s = time.monotonic()
            expected = await outputs(client, prompts, sampling, INCREMENTAL, kept, arguments)
            print(f"{sampling:8} incremental: {time.monotonic() - started_s:.0f} s", flush=True)
            for mode in arguments.modes:
                started_s = time.monotonic()
                with killed_every(suite, arguments.kill_every):
                    found = await outputs(client, prompts, sampling, mode, kept, arguments)
                equal = [left.token_ids == right.token_ids for left, right in zip(expected, found, strict=True)]
                for index in (index for index, is_equal in enumerate(equal) if not is_equal):
                    report_difference(prompts[index], mode, expected[index], found[index])
                num_tokens = sum(len(output.token_ids) for output in found)
                row = Row(
                    sampling=sampling,
                    mode=mode,
                    num_equal=sum(equal),
                    num_prompts=len(prompts),
                    num_tokens=num_tokens,
                    num_drafted=sum(output.num_drafted for output in found),
                    num_replays=sum(output.num_replays for output in found),
                    mean_acceptance_len=num_tokens / sum(output.num_steps for output in found),
                    seconds=time.monotonic() - started_s,
                )
                print(
                    f"{sampling:8} {mode:10} {row.num_equal} of {row.num_prompts} identical, {num_tokens} tokens, "
                    f"{row.mean_acceptance_len:.2f} tokens per step, {row.num_replays} replays, {row.seconds:.0f} s",
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
    parser.add_argument("--samplings", nargs="+", default=list(SAMPLINGS), choices=list(SAMPLINGS))
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument(
        "--ssm",
        action="append",
        help="as for `specgrove serve`, instead of all kinds of the demo's; repeatable; for --modes merged",
    )
    parser.add_argument(
        "--kill-every", type=float, default=0.0, metavar="S", help="kill the SSM service and the LLM service in turn"
    )
    parser.add_argument(
        "--outputs", type=Path, metavar="FILE", help="keep outputs there, and go on from those that are there"
    )
    parser.add_argument(
        "--draft-ahead",
        default="auto",
        choices=("auto", "on", "off"),
        help="whether trees grow on while the LLM verifies",
    )
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    if arguments.ssm and set(arguments.modes) != {"merged"}:
        parser.error("--ssm goes with --modes merged: the other modes name SSMs of the demo")
    ssms = tuple(arguments.ssm or SSMS)
    names = ("llm", "precision", "max_tokens", "device", "draft_ahead")
    made_with = {name: getattr(arguments, name) for name in names} | {"ssms": ssms}
    made_with |= {"commit": conditions()["commit"], "instruction_set": get_isa()}
    try:
        kept = KeptOutputs(arguments.outputs, made_with)
    except ValueError as error:
        parser.error(str(error))
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    prompts = load_prompts(arguments.num_prompts)
    is_quantized = arguments.precision in QUANTIZATIONS
    device: tuple[str, ...] = ("--device", arguments.device)
    if arguments.device == "cuda" and arguments.precision != "float32":
        device += ("--gpu-kernels", "require")  # else nothing would be shown of them
    config = SuiteConfig(
        llm_folder=folder,
        ssms=ssms,
        dtype="bfloat16" if is_quantized else arguments.precision,
        llm_arguments=(*device, *(("--quantization", arguments.precision) if is_quantized else ())),
        ssm_arguments=(*device, "--draft-ahead", arguments.draft_ahead),
    )
    with Suite(config, log_line=_print_warnings) as suite:
        rows = asyncio.run(compare(suite, prompts, kept, arguments))
    if not all(row.num_drafted > 0 for row in rows):
        print("nothing was drafted: nothing is shown")
        return 1
    return 0 if all(row.num_equal == row.num_prompts for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
