"""Measures what the GPU services reach on this card, beside what the card does at best in the same run; prints and writes a table.

    python -m benchmarks.gpu [--only PART ...] [--json FILE] [--png FILE]      (make bench-gpu OUT=FILE)

Contestants take turns; figures are medians over the turns. Every row says what it is a ratio to, its target, and whether that is met.
Each part runs in a process of its own, which measures the card too: what a kernel that faults or hangs takes along is its own part. Rows
are printed as they come, and JSON is written after every part. ``--tiny`` tries all of it on tiny shapes, ``--device cpu`` in the
emulator: that shows that the program works, and no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import attention, end_to_end, equality, linears, report, steps, trace
from benchmarks.gpu.card import EMULATOR_NOTE, Card, conditions
from benchmarks.gpu.rows import Row, broken, row_from, skipped
from specgrove.machine.folders import default_cache_dir

BROKEN_OFF = "the rest of this part"
_STOP_TIMEOUT_S = 30.0  # for services to end
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
    add("--tiny", action="store_true", help="tiny shapes on a GPU too, to try the program: seconds, and no verdicts")
    add("--part-timeout-s", type=float, default=900.0, metavar="S", help="for each part (default: 900)")
    add("--rows", type=Path, help=argparse.SUPPRESS)  # of a process for one part: where rows go, as lines of JSON
    add("--json", type=Path, help="write conditions and rows here")
    add("--png", type=Path, help="write a chart here; needs matplotlib")
    add(
        "--record-trace", type=Path, metavar="FILE", help="record a trace of acceptance on the CPU, and do nothing else"
    )
    add("--cache-dir", type=Path, default=default_cache_dir(), help="of the demo model, for the trace")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and arguments.record_trace is None and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU on this machine; --device cpu tries the program in the emulator")
    for path in (arguments.json, arguments.png):
        if path is not None and path.is_dir():
            parser.error(f"{path} is a folder: name a file in it")
    return arguments


def measured(part: str, card: Card) -> Iterator[Row]:
    """The rows of a part in this process. Where it breaks off the last says why: no other is lost."""
    try:
        for row in PARTS[part](card):
            yield replace(row, is_full=card.is_full)
    except Exception as error:
        yield broken(part, BROKEN_OFF, "", None, error)


def write_rows(arguments: argparse.Namespace) -> None:
    """The one part of a process: conditions, then rows, to ``--rows`` as lines of JSON and to the terminal as text."""
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    card = Card.measured(device, is_tiny=arguments.tiny)
    with arguments.rows.open("w") as lines:
        facts = conditions(card)
        print(json.dumps(facts), file=lines, flush=True)
        print(f"{facts['card']}: {facts['copy bandwidth']}, {facts['matrix rate']}", flush=True)
        for part in arguments.only:
            for row in measured(part, card):
                print(json.dumps(asdict(row)), file=lines, flush=True)
                print(report.line_of(row), flush=True)


def run_apart(part: str, arguments: argparse.Namespace, path: Path) -> tuple[dict[str, str], list[Row]]:
    """A part in a process of its own: its conditions, none where it didn't get that far, and its rows."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", part, "--device", arguments.device]
    command += ["--rows", str(path), *(["--tiny"] if arguments.tiny else [])]
    process = subprocess.Popen(command, start_new_session=True)
    reason = None
    try:
        if process.wait(arguments.part_timeout_s) != 0:
            reason = f"its process ended with code {process.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"it took more than {arguments.part_timeout_s:.0f} s"
    finally:
        _end(process)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row_from(fields) for fields in lines[1:]]
    if reason is not None:
        rows.append(skipped(part, BROKEN_OFF, "", None, reason))
    return lines[0] if lines else {}, rows


def _end(process: subprocess.Popen[bytes]) -> None:
    """With a chance to end the services that it has started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_right(rows: Sequence[Row]) -> bool:
    """No part broke off, and no output of speculation differs."""
    return not any(
        row.what == BROKEN_OFF or (row.part == equality.PART and row.value not in (None, 1.0)) for row in rows
    )


def main(argv: list[str] | None = None) -> int:
    """1 where a part broke off, or speculation has changed a token."""
    arguments = parse_arguments(argv)
    console = Console(width=190 if not sys.stdout.isatty() else None)
    if arguments.record_trace is not None:
        recorded = trace.record(arguments.record_trace, arguments.cache_dir)
        console.print(f"{len(recorded.accepted)} trees, {recorded.tokens_per_step:.2f} tokens a step: {recorded.how}")
        return 0
    if arguments.rows is not None:
        write_rows(arguments)
        return 0
    if arguments.device == "cpu":
        console.print(EMULATOR_NOTE)
    facts: dict[str, str] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="specgrove-bench-") as folder:
        for part in arguments.only:
            found, more = run_apart(part, arguments, Path(folder) / part)
            facts = facts or found
            rows += more
            if arguments.json is not None:
                report.write_json(rows, facts, arguments.json)
    report.print_table(rows, facts, console)
    if arguments.device == "cpu" or arguments.tiny:
        console.print("tiny shapes: there are no verdicts")
    if arguments.png is not None:
        report.write_chart(rows, facts, arguments.png, console.print)
    return 0 if is_right(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
