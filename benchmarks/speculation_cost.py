"""Does speculation ever cost? Tokens per second over gRPC, speculative ÷ incremental, by pairs of short rounds that take turns.

    python -m benchmarks.speculation_cost --precisions bfloat16 int4 --batches 1 8 --rounds 12

Starts the real services once per precision. In a round both ways answer the same new prompts, one right after the other, and the
one that was first is second in the next round: what else the machine does hits both. Printed are the median of the rounds' ratios
and its standard error, the quartiles, and how much was drafted; and the same ratio of the processor time that the services took for
a token, which other load on the machine hardly moves: it shows what is computed besides. ``--json`` keeps the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.contestants import OverGrpc
from benchmarks.host import conditions
from benchmarks.processor_time import descendants_cpu_s
from benchmarks.prompts import load_prompts
from benchmarks.serving import suite_config
from specgrove.client import AsyncClient
from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite
from specgrove.tokenizer import Tokenizer

PRECISIONS = ("float32", "bfloat16", "int8", "int4")


@dataclass(frozen=True, slots=True)
class PairedRounds:
    """One precision at one batch size: each round's two rates in tokens per second."""

    precision: str
    batch: int
    speculative: tuple[float, ...]
    incremental: tuple[float, ...]
    cpu_ratios: tuple[float, ...]
    """The services' processor time for a token, incremental ÷ speculative, by round."""
    tokens_per_step: float
    """Of one request, speculative."""
    drafted_share: float
    """Steps of the speculative requests that verified a tree."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Speculative ÷ incremental, by round."""
        return tuple(ours / base for ours, base in zip(self.speculative, self.incremental, strict=True))

    def line(self) -> str:
        """For people."""
        return (
            f"{self.precision}, batch {self.batch}: speculative ÷ incremental {_spread(self.ratios)} in {len(self.ratios)} rounds; "
            f"by processor time {_spread(self.cpu_ratios)}; {statistics.median(self.speculative):.1f} and "
            f"{statistics.median(self.incremental):.1f} tokens/s, {self.tokens_per_step:.2f} tokens per step, "
            f"{self.drafted_share:.0%} of steps with a tree"
        )


def _spread(ratios: Sequence[float]) -> str:
    """The median with its standard error, and the quartiles."""
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [*ratios] * 3
    # Of the median of samples that are about normal: 1.25 times the mean's. From quartiles, for rounds that met other load lie far out.
    error = 1.25 * (high - low) / 1.35 / math.sqrt(len(ratios))
    return f"{median:.3f} ± {error:.3f} ({low:.3f} to {high:.3f})"


def paired_rounds(
    speculative: OverGrpc,
    incremental: OverGrpc,
    groups: Sequence[list[list[int]]],
    max_tokens: int,
    progress: Callable[[str], None],
) -> PairedRounds:
    """A round for each group of prompts, which are asked at once."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    cpu_per_token_s: dict[bool, list[float]] = {True: [], False: []}
    for number, group in enumerate(groups):
        order = (True, False) if number % 2 else (False, True)
        for is_speculative in order:
            contestant = speculative if is_speculative else incremental
            started_s, cpu_s = time.perf_counter(), descendants_cpu_s()
            num_tokens = contestant.run(group, max_tokens)
            rates[is_speculative].append(num_tokens / (time.perf_counter() - started_s))
            cpu_per_token_s[is_speculative].append((descendants_cpu_s() - cpu_s) / num_tokens)
        progress(f"batch {len(group)}, round {number + 1} of {len(groups)}: {rates[True][-1] / rates[False][-1]:.3f}")
    _, tokens_per_step = speculative.steps()
    return PairedRounds(
        precision=speculative.precision,
        batch=len(groups[0]),
        speculative=tuple(rates[True]),
        incremental=tuple(rates[False]),
        cpu_ratios=tuple(base / ours for ours, base in zip(cpu_per_token_s[True], cpu_per_token_s[False], strict=True)),
        tokens_per_step=tokens_per_step or 0.0,
        drafted_share=speculative.drafted_share(),
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation_cost", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batches", type=int, nargs="+", default=[1, 8])
    add("--rounds", type=int, default=12)
    add("--max-tokens", type=int, default=128)
    add("--precisions", nargs="+", default=["bfloat16", "int4"], choices=PRECISIONS, help="of the LLM")
    add("--llm", default=DEMO_LLM)
    add("--ssm", action="append", help="as for `specgrove serve`; repeatable")
    add("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove")
    add("--json", type=Path, help="write all rounds here")
    add("--log", action="store_true", help="show what the services log")
    return parser.parse_args()


def main() -> int:
    """Measures and prints a line per precision and batch size."""
    arguments = parse_arguments()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS_ON_CPU
    # No prompt comes twice: drafters that look texts up would know its output.
    texts = load_prompts(arguments.rounds * sum(arguments.batches), sets=("alpaca",))
    tokenizer = Tokenizer.from_folder(folder)
    chats = [list(tokenizer.encode_chat([("user", text)])) for text in texts]
    loop = asyncio.new_event_loop()
    found: list[PairedRounds] = []

    async def connect(address: str) -> AsyncClient:
        return AsyncClient(address)

    def log_line(name: str, line: str) -> None:
        if arguments.log:
            print(f"{name}: {line}", flush=True)

    for precision in arguments.precisions:
        with Suite(suite_config(folder, ssms, precision), log_line) as suite:
            client = loop.run_until_complete(connect(suite.address))
            first = 0
            for batch in arguments.batches:
                end = first + arguments.rounds * batch
                groups = [chats[start : start + batch] for start in range(first, end, batch)]
                first = end
                speculative = OverGrpc(client, loop, precision, is_speculative=True)
                incremental = OverGrpc(client, loop, precision, is_speculative=False)
                found.append(
                    paired_rounds(
                        speculative, incremental, groups, arguments.max_tokens, lambda text: print(text, flush=True)
                    )
                )
                print(found[-1].line(), flush=True)
            loop.run_until_complete(client.close())
    print("\n".join(rounds.line() for rounds in found))
    print(", ".join(conditions().values()))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(rounds) for rounds in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
