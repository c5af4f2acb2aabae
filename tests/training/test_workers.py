"""Processes that record end with the command that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from specgrove.training.workers import run_all
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


def wait_here(place: Path) -> None:
    """In the process: tells its id, and works on."""
    partial = place.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(place)
    time.sleep(LIMIT_S)


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_ctrl_c_is_left_to_the_command_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches all processes of a terminal: each would print a traceback."""
    at_start = []

    class Worker:
        exitcode = 0

        def start(self) -> None:
            at_start.append(signal.getsignal(signal.SIGINT))

        def join(self) -> None:
            at_start.append(signal.getsignal(signal.SIGINT))

    context = SimpleNamespace(Process=lambda **_: Worker())
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    run_all(wait_here, [()])
    assert at_start == [signal.SIG_IGN, signal.getsignal(signal.SIGINT)]
    assert at_start[1] is not signal.SIG_IGN


def test_they_end_when_it_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    program = (
        "from pathlib import Path; from specgrove.training.workers import run_all; "
        f"from tests.training.test_workers import wait_here; run_all(wait_here, [(Path({str(place)!r}),)])"
    )
    command = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    until(place.exists)
    worker = Path("/proc") / place.read_text()
    command.kill()
    command.wait(LIMIT_S)
    until(lambda: not worker.exists() or "Z (zombie)" in (worker / "status").read_text())
