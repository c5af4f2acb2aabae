"""Measures what the GPU services reach on this card, beside what the card does at best in the same run; prints and writes a table.

    python -m benchmarks.gpu [--only PART ...] [--json FILE] [--png FILE]      (make bench-gpu OUT=FILE)

Contestants take turns; figures are medians over the turns. Every row says what it is a ratio to, its target, and whether that is met.
``--device cpu`` runs tiny shapes in the emulator: that shows that the program works, and no speed. What is measured is written after
every part, so that a run cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import attention, end_to_end, linears, report, steps, trace
from benchmarks.gpu.card import EMULATOR_NOTE, Card, conditions
from benchmarks.gpu.rows import Row, first_line, skipped

PARTS: dict[str, Callable[[Card], list[Row]]] = {
    "verify": steps.verify_rows,
    "ssm": steps.ssm_rows,
    "attention": attention.rows,
    "linears": linears.rows,
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


def measured(part: str, card: Card) -> list[Row]:
    """The rows of a part; where it breaks off, one that says why, so that the others are not lost."""
    try:
        return [replace(row, is_real=card.is_real) for row in PARTS[part](card)]
    except Exception as error:
        return [skipped(part, "all", "", None, first_line(error))]
    finally:
        gc.collect()
        if card.is_real:
            torch.cuda.empty_cache()


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
    rows: list[Row] = []
    for part in arguments.only:
        rows += measured(part, card)
        if arguments.json is not None:
            report.write_json(rows, facts, arguments.json)
    report.print_table(rows, facts, console)
    if device.type == "cpu":
        console.print(f"{EMULATOR_NOTE}, and there are no verdicts")
    if arguments.png is not None:
        report.write_chart(rows, facts, arguments.png, console.print)
    return 1 if any(row.what == "all" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
