"""Tokens per second over gRPC, speculative and incremental, beside transformers' ``generate``: ``make bench``.

    python -m benchmarks.serving --batches 1 8 --rounds 5 --max-tokens 128 --precisions bfloat16 int8 int4

Starts the real services, a suite for every precision. In every round all contestants answer the same prompts in turn (A B C A B C ...),
so that a noisy machine slows them all; reported are the median over rounds, the spread (min to max), and ratios of medians. Outputs
end at the end-of-sequence token or ``--max-tokens``; only tokens that were put out count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.prompts import load_prompts
from specgrove.client import AsyncClient
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.output import Completion
from specgrove.request import SpeculationOptions
from specgrove.serve import DEFAULT_SSMS, Suite, SuiteConfig
from specgrove.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant at one batch size. ``spread`` is the slowest and the fastest round."""

    contestant: str
    precision: str
    speculation: str
    batch: int
    tokens_per_s: float
    spread: tuple[float, float]
    step_ms: float
    mean_acceptance_len: float


class OverGrpc:
    """One of ours: all prompts of a round at once, over the router."""

    def __init__(
        self, client: AsyncClient, loop: asyncio.AbstractEventLoop, precision: str, *, is_speculative: bool
    ) -> None:
        self.precision = precision
        self.name = f"specgrove {precision} " + ("speculative" if is_speculative else "incremental")
        self._client = client
        self._loop = loop
        self._speculation = SpeculationOptions(disabled=not is_speculative)
        self.completions: list[Completion] = []

    def run(self, prompts: list[str], max_tokens: int) -> int:
        """The number of tokens put out."""
        completions = self._loop.run_until_complete(self._complete(prompts, max_tokens))
        self.completions.extend(completions)
        return sum(completion.usage.num_output_tokens for completion in completions)

    async def _complete(self, prompts: list[str], max_tokens: int) -> list[Completion]:
        return list(
            await asyncio.gather(
                *(
                    self._client.complete([("user", prompt)], max_tokens=max_tokens, speculation=self._speculation)
                    for prompt in prompts
                )
            )
        )


class Transformers:
    """``generate`` in bf16, greedy, in this process; a batch is padded on the left."""

    name = "transformers generate"
    precision = "bfloat16"

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._tokenizer = Tokenizer.from_folder(folder)
        self._eos = self._model.generation_config.eos_token_id

    def run(self, prompts: list[str], max_tokens: int) -> int:
        """The number of tokens put out, padding not counted."""
        ids = [self._tokenizer.encode_chat([("user", prompt)]) for prompt in prompts]
        length = max(map(len, ids))
        eos = self._eos if isinstance(self._eos, list) else [self._eos]
        inputs = torch.tensor([[eos[0]] * (length - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids])
        with torch.inference_mode():
            generated: Any = self._model.generate(
                inputs, attention_mask=mask, do_sample=False, max_new_tokens=max_tokens, pad_token_id=eos[0]
            )
        return sum(_num_tokens(row.tolist(), set(eos)) for row in generated[:, length:])


def _num_tokens(token_ids: list[int], eos: set[int]) -> int:
    """Up to the first end-of-sequence token, that one counted."""
    for index, token_id in enumerate(token_ids):
        if token_id in eos:
            return index + 1
    return len(token_ids)


def measure(
    contestants: list[Any], batch: int, arguments: argparse.Namespace, progress: Callable[[str], None]
) -> dict[str, list[float]]:
    """Tokens per second of every round, by contestant."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    num_prompts = batch if batch > 1 else arguments.prompts_per_round
    prompts = load_prompts(num_prompts * (arguments.rounds + 1), sets=("alpaca",))
    for number in range(-1, arguments.rounds):
        first = (number + 1) * num_prompts
        for contestant in contestants:
            groups = [prompts[start : start + batch] for start in range(first, first + num_prompts, batch)]
            started_s = time.perf_counter()
            # The round before the first warms everything up and is not counted.
            num_tokens = sum(contestant.run(group, 8 if number < 0 else arguments.max_tokens) for group in groups)
            rate = num_tokens / (time.perf_counter() - started_s)
            if number >= 0:
                rates[contestant.name].append(rate)
                progress(
                    f"batch {batch}, round {number + 1} of {arguments.rounds}: {contestant.name} {rate:.1f} tokens/s"
                )
    return rates


def rows_of(contestants: list[Any], rates: dict[str, list[float]], batch: int) -> list[Row]:
    """Medians; the completions of ours are taken out of their contestants."""
    rows = []
    for contestant in contestants:
        completions = getattr(contestant, "completions", [])
        steps = sum(completion.usage.num_verify_steps for completion in completions)
        verify_ms = sum(completion.usage.verify_ms for completion in completions)
        num_tokens = sum(completion.usage.num_output_tokens for completion in completions)
        values = rates[contestant.name]
        rows.append(
            Row(
                contestant=contestant.name,
                precision=contestant.precision,
                speculation="trees" if "speculative" in contestant.name else "none",
                batch=batch,
                tokens_per_s=statistics.median(values),
                spread=(min(values), max(values)),
                step_ms=verify_ms / steps if steps else 0.0,
                mean_acceptance_len=num_tokens / steps if steps else 0.0,
            )
        )
        if completions:
            contestant.completions = []
    return rows


def print_table(rows: list[Row], console: Console) -> None:
    """One line per contestant and batch, with its ratio to transformers and to incremental decoding."""
    table = Table(title="SpecGrove over gRPC, medians over rounds")
    for column in (
        "batch",
        "contestant",
        "precision",
        "tokens/s",
        "min-max",
        "x transformers",
        "x incremental",
        "tokens/step",
        "ms/step",
    ):
        table.add_column(column, justify="left" if column in ("contestant", "precision") else "right")
    for row in rows:
        peers = {peer.contestant: peer.tokens_per_s for peer in rows if peer.batch == row.batch}
        table.add_row(
            str(row.batch),
            row.contestant,
            row.precision,
            f"{row.tokens_per_s:.1f}",
            f"{row.spread[0]:.0f}-{row.spread[1]:.0f}",
            _ratio(row.tokens_per_s, peers.get(Transformers.name)),
            _ratio(row.tokens_per_s, peers.get(f"specgrove {row.precision} incremental")),
            f"{row.mean_acceptance_len:.2f}" if row.mean_acceptance_len else "",
            f"{row.step_ms:.1f}" if row.step_ms else "",
        )
    console.print(table)


def _ratio(value: float, reference: float | None) -> str:
    return f"{value / reference:.2f}" if reference else ""


def conditions() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
    }


def suite_config(folder: Path, ssms: tuple[str, ...], precision: str) -> SuiteConfig:
    """SSMs compute in the LLM's dtype; they are not quantised."""
    if precision in ("int8", "int4"):
        return SuiteConfig(llm_folder=folder, ssms=ssms, llm_arguments=("--quantization", precision))
    return SuiteConfig(llm_folder=folder, ssms=ssms, dtype=precision)


async def connect(address: str) -> AsyncClient:
    """A client of the running event loop."""
    return AsyncClient(address)


def main() -> int:
    """Measures, prints, and writes JSON when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts-per-round", type=int, default=2, help="at batch 1")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument(
        "--precisions", nargs="+", default=["bfloat16", "int8", "int4"], choices=("float32", "bfloat16", "int8", "int4"),
        help="of our LLM; quantised weights compute in bfloat16",
    )  # fmt: skip
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--ssm", action="append", help="as for `specgrove serve`; repeatable")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    console = Console(width=140 if not sys.stdout.isatty() else None, soft_wrap=True)
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=console.print)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS
    loop = asyncio.new_event_loop()
    rows: list[Row] = []
    with contextlib.ExitStack() as running:
        contestants: list[Any] = []
        clients = []
        for precision in arguments.precisions:
            suite = running.enter_context(Suite(suite_config(folder, ssms, precision)))
            clients.append(loop.run_until_complete(connect(suite.address)))
            contestants += [
                OverGrpc(clients[-1], loop, precision, is_speculative=is_speculative)
                for is_speculative in (False, True)
            ]
        if not arguments.no_transformers:
            contestants.append(Transformers(folder))
        for batch in arguments.batches:
            rates = measure(contestants, batch, arguments, console.print)
            rows.extend(rows_of(contestants, rates, batch))
        for client in clients:
            loop.run_until_complete(client.close())
    print_table(rows, console)
    facts = conditions()
    console.print(
        f"{folder.name}, up to {arguments.max_tokens} tokens, {arguments.rounds} rounds; " + ", ".join(facts.values())
    )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"conditions": facts, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
