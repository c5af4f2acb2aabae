"""One stage of ``make``: runs a command, shows it as one line with its progress, and keeps what it prints in a log.

Called by the Makefile, also before anything is installed: standard library only. The exit code is the command's; when it fails,
the log's last lines and its place are shown.

    python tools/stage.py --log build/setup.log --title "building the kernels" [--items 40] -- COMMAND ARGUMENT...
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

_BAR_LEN = 24
_REDRAW_S = 0.2
_NUM_LINES_SHOWN = 25
# Builds count themselves: "[ 45%] Building" (make), "[12/40] Building" (ninja).
_COUNTED = re.compile(r"\[\s*(\d+)(%)\]|\[(\d+)/(\d+)\]")
# pip says each package once, either way; a package's parts ("Using cached", "Downloading") are no items.
_ITEM = re.compile(r"\s*(Collecting|Requirement already satisfied:) ")


class Progress:
    """How far a command is, from the lines it printed."""

    def __init__(self, num_items: int) -> None:
        self.fraction = 0.0
        self._num_items = num_items
        self._num_seen = 0

    def read(self, line: str) -> None:
        """Takes one line in. Progress never goes back."""
        if (found := _COUNTED.search(line)) is not None:
            percent, _, step, num_steps = found.groups()
            part, whole = (percent, "100") if percent else (step, num_steps)
            self._reach(int(part) / max(int(whole), 1))
        elif self._num_items and _ITEM.match(line):
            self._num_seen += 1
            # The rest is unpacking, which pip does not count.
            self._reach(0.8 * min(self._num_seen / self._num_items, 1.0))

    def _reach(self, fraction: float) -> None:
        self.fraction = max(self.fraction, min(fraction, 1.0))


def run_stage(title: str, log_path: Path, num_items: int, command: list[str], out: TextIO) -> int:
    """Runs ``command``; returns its exit code."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    progress, started_s, has_ended = Progress(num_items), time.monotonic(), threading.Event()

    def line_of(state: str) -> str:
        return f"==> {title:<44} {state}{time.monotonic() - started_s:6.0f} s"

    def redraw() -> None:
        while not has_ended.wait(_REDRAW_S):
            num_full = round(progress.fraction * _BAR_LEN)
            bar = "█" * num_full + "░" * (_BAR_LEN - num_full)
            out.write("\r" + line_of(f"{bar} {progress.fraction:4.0%}")[: shutil.get_terminal_size().columns - 1])
            out.flush()

    if out.isatty():
        drawing = threading.Thread(target=redraw, daemon=True)
        drawing.start()
    else:
        print(f"==> {title} ...", file=out, flush=True)
    with log_path.open("a", encoding="utf-8") as log:
        log.write(f"\n==> {title}: {' '.join(command)}\n")
        log.flush()
        exit_code = _run(command, log, progress)
    has_ended.set()
    if out.isatty():
        drawing.join()
        out.write("\r\033[K")
    print(line_of("done" if exit_code == 0 else "FAILED"), file=out, flush=True)
    return exit_code


def _run(command: list[str], log: TextIO, progress: Progress) -> int:
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        log.write(f"{error}\n")
        return 127
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        progress.read(line)
    return process.wait()


def main() -> int:
    """Exit code of the command."""
    parser = argparse.ArgumentParser(description="Run one stage of make.")
    parser.add_argument("--log", type=Path, required=True, help="file that all output is added to")
    parser.add_argument("--title", required=True, help="what the stage does, for people")
    parser.add_argument("--items", type=int, default=0, help="about how many packages pip will name")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    exit_code = run_stage(given.title, given.log, given.items, command, sys.stdout)
    if exit_code != 0:
        lines = given.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_NUM_LINES_SHOWN:]
        print("\n".join(lines), f"\nThe whole log: {given.log.resolve()}", sep="\n", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
