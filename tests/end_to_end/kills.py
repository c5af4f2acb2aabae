"""Kills services of a suite, as soon as they are there: one that was killed before may be on its way back."""

from __future__ import annotations

import os
import signal

from specgrove.suite.processes import Suite
from tests.waiting import wait_until


def kill(suite: Suite, service: str) -> int:
    """By SIGKILL; the process's id."""
    pids: list[int] = []

    def is_there() -> bool:
        pid = suite.pid(service)
        if pid is not None:  # 0 would be all processes of the test
            pids.append(pid)
        return bool(pids)

    wait_until(is_there)
    os.kill(pids[0], signal.SIGKILL)
    return pids[0]
