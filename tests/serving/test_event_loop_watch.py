"""A process whose event loop gets no turn ends, whatever keeps the loop from it; one that turns, or was stopped, goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from specgrove.serving import event_loop_watch
from specgrove.serving.event_loop_watch import watch_event_loop
from specgrove.serving.server import serve_until_signal
from tests.serving.toy_service import EchoServicer, server_of

_PROGRAM = """
import asyncio, ctypes
from specgrove.serving.event_loop_watch import watch_event_loop
async def main():
    watching = asyncio.create_task(watch_event_loop(0.5))
    await asyncio.sleep(0)
    ctypes.PyDLL(None).sleep(3600)  # native code that keeps the interpreter for itself
asyncio.run(main())
"""

_STOPPED = """
import asyncio, sys
from specgrove.serving.event_loop_watch import watch_event_loop
async def main():
    watching = asyncio.create_task(watch_event_loop(2.0))
    await asyncio.sleep(0)
    print("watched", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


class FakeWatch:
    """Notes what is done to it."""

    def __init__(self, timeout_s: float, signal: int) -> None:
        self.timeout_s = timeout_s
        self.num_beats = 0
        self.is_on = True
        self.has_beaten = asyncio.Event()

    def beat(self) -> None:
        self.num_beats += 1
        if self.num_beats == 3:
            self.has_beaten.set()

    def stop(self) -> None:
        self.is_on = False


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[FakeWatch]:
    """Those that were begun."""
    begun: list[FakeWatch] = []

    def begin(timeout_s: float, signal: int) -> FakeWatch:
        begun.append(FakeWatch(timeout_s, signal))
        return begun[-1]

    monkeypatch.setattr(event_loop_watch, "TurnWatch", begin)
    return begun


def test_a_native_call_that_hangs_with_the_interpreter_ends_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "in main" in ended.stderr  # where it hung


@pytest.mark.slow
def test_a_process_that_was_stopped_for_long_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", _STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"watched\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)  # more than the loop may be without a turn
        process.send_signal(signal.SIGCONT)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


async def test_each_turn_gives_a_sign_and_the_end_takes_the_watch_away(watches: list[FakeWatch]) -> None:
    watching = asyncio.create_task(watch_event_loop(0.02))
    await asyncio.sleep(0)
    (watch,) = watches
    await asyncio.wait_for(watch.has_beaten.wait(), 60)
    assert watch.timeout_s == 0.02
    assert watch.is_on
    watching.cancel()
    await asyncio.wait({watching})
    assert not watch.is_on


async def test_the_watch_has_ended_when_a_server_has_stopped(watches: list[FakeWatch]) -> None:
    """What its process does then, such as waiting for threads, gives the loop no turn."""
    await serve_until_signal(server_of(EchoServicer()), asyncio.sleep(0), hang_timeout_s=60.0)
    (watch,) = watches
    assert watch.num_beats > 0
    assert not watch.is_on
