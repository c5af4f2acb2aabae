"""Kills model services of a suite again and again while others use it: what the suite must bear. Used by ``benchmarks.equality``."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator

from specgrove.suite.processes import Suite

VICTIMS = ("ssm_service", "llm_service")


@contextlib.contextmanager
def killed_every(suite: Suite, seconds: float) -> Iterator[None]:
    """The two in turn, with SIGKILL, ``seconds`` apart while in ``with``; one that isn't up at its turn is left alone. 0: nothing is."""
    has_ended = threading.Event()

    def kill() -> None:
        for victim in itertools.cycle(VICTIMS):
            if has_ended.wait(seconds):
                return
            if (pid := suite.pid(victim)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, name="killer", daemon=True)
    if seconds > 0:
        killer.start()
    try:
        yield
    finally:
        has_ended.set()
        if seconds > 0:
            killer.join()
