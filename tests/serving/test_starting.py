"""A service that still loads ends at once when it is told to, also as process 1 of a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specgrove.serving.starting import ended_by_signals
from tests.waiting import LIMIT_S

# Both wait in the place of loading, in a call that Python's own handlers of signals would wait for the end of.
_STARTING = """
import threading
from specgrove.serving.starting import ended_by_signals
from specgrove.telemetry.logs import set_up_logging
set_up_logging("service")
with ended_by_signals():
    print("loading", flush=True)
    threading.Event().wait()
"""
_STARTING_IN_LOOP = """
import threading
from specgrove.serving import event_loop
from specgrove.serving.starting import ended_by_signals
from specgrove.telemetry.logs import set_up_logging
set_up_logging("service")
async def serve():
    print("loading", flush=True)
    threading.Event().wait()
with ended_by_signals():
    event_loop.run(serve())
"""
_SERVING = """
import asyncio, os, signal
from specgrove.serving import event_loop
from specgrove.serving.starting import ended_by_signals
async def serve():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    event_loop.take_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    print("ended in order", flush=True)
with ended_by_signals():
    event_loop.run(serve())
"""
_LLM_SERVICE = """
import threading
import llm_service.__main__ as main
from llm_service import service
def load_runner(config):
    print("loading", flush=True)
    threading.Event().wait()
service.load_runner, main.check_model = load_runner, lambda config: None
raise SystemExit(main.main())
"""
_AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child")


def has_namespaces() -> bool:
    return subprocess.run([*_AS_PROCESS_1, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("program", "number", "is_process_1"),
    [
        (_STARTING, signal.SIGTERM, False),
        (_STARTING, signal.SIGINT, False),
        (_STARTING_IN_LOOP, signal.SIGTERM, False),
        (_STARTING_IN_LOOP, signal.SIGINT, False),
        (_STARTING, signal.SIGINT, True),
        (_LLM_SERVICE, signal.SIGTERM, True),
    ],
    ids=[
        "SIGTERM",
        "SIGINT",
        "SIGTERM in the loop",
        "SIGINT in the loop",
        "SIGINT to process 1",
        "SIGTERM to the LLM service as process 1",
    ],
)
def test_a_signal_ends_what_loads(program: str, number: signal.Signals, is_process_1: bool, tmp_path: Path) -> None:
    if is_process_1 and not has_namespaces():
        pytest.skip("no namespaces of processes here")
    command = [sys.executable, "-c", program, "--address", f"unix:{tmp_path}/llm.sock"]
    process = subprocess.Popen(
        [*(_AS_PROCESS_1 if is_process_1 else ()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    pid = child_of(process.pid) if is_process_1 else process.pid
    os.kill(pid, number)
    said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 128 + number
    assert f"{number.name} before it serves: ending at once" in said
    assert "Traceback" not in said


def test_what_serves_takes_signals_itself() -> None:
    service = subprocess.run(
        [sys.executable, "-c", _SERVING], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert (service.returncode, service.stdout, service.stderr) == (0, "ended in order\n", "")


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_what_was_there_before_is_there_again() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with ended_by_signals():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
