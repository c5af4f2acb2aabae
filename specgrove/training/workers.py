"""Processes with one thread each, and what is said while something takes long. Used by ``recording`` and the two kinds' stages.

Several processes with a thread each are faster by half than one with all threads, and less disturbed by other programs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence

import torch

from specgrove.kernels.threads import set_num_threads
from specgrove.machine.parent import die_with


def run_all(part: Callable[..., None], parts: Sequence[tuple[object, ...]]) -> None:
    """A process for each, until all have ended; they end with this one. Raises ``RuntimeError`` when one failed."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(os.getpid(), part, *arguments), daemon=True) for arguments in parts]
    # Ctrl-C goes to all processes of a terminal. These leave it to this one, and end with it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.signal(signal.SIGINT, before)
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process failed; start again to go on from where it was")


def _work(parent_pid: int, part: Callable[..., None], *arguments: object) -> None:
    """In the process: one thread, and one line for what goes wrong."""
    die_with(parent_pid)
    torch.set_num_threads(1)
    set_num_threads(1)
    try:
        part(*arguments)
    except (ValueError, OSError) as error:
        say(f"error: {' '.join(str(error).split())}")
        raise SystemExit(1) from None


def say(line: str) -> None:
    """One line on what is going on."""
    print(line, file=sys.stderr, flush=True)


def loading(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """For weights that are being read."""

    def progress(done: int, total: int) -> None:
        if done == total or done % 8 == 0:
            tell(f"loaded layer {done} of {total}")

    return progress
