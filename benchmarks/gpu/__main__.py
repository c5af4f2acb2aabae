"""Measures what the GPU services reach on this card, beside what the card does at best in the same run; prints and writes a table.

    python -m benchmarks.gpu [--only PART ...] [--json FILE] [--png FILE]      (make bench-gpu OUT=FILE)

Contestants take turns; figures are medians over the turns. Every row says what it is a ratio to, its target, and whether that is met.
``--device cpu`` runs tiny shapes in the emulator: that shows that the program works, and no speed. JSON is
written after every row, so that a run cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import attention, end_to_end, equality, linears, report, steps, trace
from benchmarks.gpu.card import EMULATOR_NOTE, Card, conditions
from benchmarks.gpu.rows import Row, first_line, skipped

BROKEN_OFF = "the rest of this part"
PARTS: dict[str, Callable[[Card], Iterable[Row]]] = {
    "verify": steps.verify_rows,
    "ssm": steps.ssm_rows,
    "attention": attention.rows,
    "linears": linears.rows,
    "equality": equality.rows,
    "end-to-end": end_to_end.rows,
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--only", choices=tuple(PARTS), nargs="+", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    add("--json", type=Path, help="write conditions and rows here")
    add("--png", type=Path, help="write a chart here; needs matplotlib")
    add(
        "--record-trace", type=Path, metavar="FILE", help="record a trace of acceptance on the CPU, and do nothing else"
    )
    add("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove", help="of the demo model, for the trace")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and arguments.record_trace is None and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU on this machine; --device cpu tries the program in the emulator")
    return arguments


def measured(parts: Sequence[str], card: Card, report_rows: Callable[[list[Row]], None]) -> list[Row]:
    """The rows of all parts; ``report_rows`` gets those so far after each. Where a part breaks off a row says why: no other is lost."""
    rows: list[Row] = []
    for part in parts:
        try:
            for row in PARTS[part](card):
                rows.append(replace(row, is_real=card.is_real))
                report_rows(rows)
        except Exception as error:
            rows.append(skipped(part, BROKEN_OFF, "", None, first_line(error)))
            report_rows(rows)
        with contextlib.suppress(RuntimeError):  # a card that is lost to this process
            gc.collect()
            torch.cuda.empty_cache()
    return rows


def main(argv: list[str] | None = None) -> int:
    """1 where a part broke off."""
    arguments = parse_arguments(argv)
    console = Console(width=190 if not sys.stdout.isatty() else None)
    if arguments.record_trace is not None:
        recorded = trace.record(arguments.record_trace, arguments.cache_dir)
        console.print(f"{len(recorded.accepted)} trees, {recorded.tokens_per_step:.2f} tokens a step: {recorded.how}")
        return 0
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    if device.type == "cpu":
        console.print(EMULATOR_NOTE)
    card = Card.measured(device)
    facts = conditions(card)
    console.print(f"{facts['card']}: {facts['copy bandwidth']}, {facts['matrix rate']}")

    def write(rows: list[Row]) -> None:
        if arguments.json is not None:
            report.write_json(rows, facts, arguments.json)

    rows = measured(arguments.only, card, write)
    report.print_table(rows, facts, console)
    if device.type == "cpu":
        console.print(f"{EMULATOR_NOTE}, and there are no verdicts")
    if arguments.png is not None:
        report.write_chart(rows, facts, arguments.png, console.print)
    return 1 if any(row.what == BROKEN_OFF for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
