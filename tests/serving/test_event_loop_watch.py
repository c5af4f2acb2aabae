"""A process whose event loop gets no turn ends, whatever keeps the loop from it; one that turns goes on."""

from __future__ import annotations

import asyncio
import faulthandler
import subprocess
import sys

import pytest

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


def test_a_native_call_that_hangs_with_the_interpreter_ends_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in main" in ended.stderr  # where it hung


async def test_each_turn_sets_the_timer_anew_and_the_end_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    set_anew = asyncio.Event()

    def set_timer(timeout_s: float, *, exit: bool) -> None:
        assert exit
        timers.append(timeout_s)
        if len(timers) == 3:
            set_anew.set()

    monkeypatch.setattr(faulthandler, "dump_traceback_later", set_timer)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", timers.clear)
    watching = asyncio.create_task(watch_event_loop(0.02))
    await asyncio.wait_for(set_anew.wait(), 60)
    assert set(timers) == {0.02}
    watching.cancel()
    await asyncio.wait({watching})
    assert timers == []


async def test_the_timer_is_off_when_a_server_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its process does then, such as waiting for threads, gives the loop no turn."""
    calls: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: calls.append("on"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("off"))
    await serve_until_signal(server_of(EchoServicer()), asyncio.sleep(0), hang_timeout_s=60.0)
    assert calls[0] == "on"
    assert calls[-1] == "off"
