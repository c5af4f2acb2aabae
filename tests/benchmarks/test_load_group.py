"""A server that a load starts: it is waited for, stands still with all its processes, and ends with whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.load import group
from benchmarks.load.asking import AskingError
from benchmarks.load.group import Group
from benchmarks.load.over_openai import OpenAiServer
from benchmarks.load.vllm_server import Stopped, started
from tests.addresses import free_address

_SERVER = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def test_a_server_is_waited_for_and_ends_with_its_block() -> None:
    address = free_address()
    command = [sys.executable, "-c", _SERVER, address.rpartition(":")[2]]
    with started(command, dict(os.environ), f"http://{address}") as (running, server):
        assert running.exit_code() is None
        running.stop()
        running.resume()
        assert asyncio.run(server.is_healthy())
        running.stop()  # ends all the same
    assert not asyncio.run(server.is_healthy())


def test_a_server_that_does_not_start_shows_the_end_of_its_log() -> None:
    for command, said in (
        ([sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"], "exit code 3 .*\nno such model"),
        (["/nowhere/python"], "nowhere/python could not be started"),
    ):
        with pytest.raises(AskingError, match=said), started(command, dict(os.environ), f"http://{free_address()}"):
            pass


def _state(pid: int) -> str:
    """``T``: stopped; ``gone`` where there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "gone")
    except OSError:
        return "gone"


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_group_stands_still_with_its_children_and_ends_with_its_starter(tmp_path: Path) -> None:
    """The starter is killed while the group stands still."""
    pids = tmp_path / "pids"
    member = (
        f"import os, time; fork = os.fork(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(1e6)"
    )
    starter = (
        "import os, sys, time; from pathlib import Path; from benchmarks.load.group import Group; "
        f"group = Group([sys.executable, '-c', {member!r}], dict(os.environ), Path({str(tmp_path)!r}), sys.stderr.buffer)\n"
        f"while not os.path.exists({str(pids)!r}) or len(open({str(pids)!r}).readlines()) < 2: time.sleep(0.01)\n"
        "group.stop(); print('stopped', flush=True); time.sleep(1e6)"
    )
    root = Path(group.__file__).parent.parent.parent
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"stopped\n"
    members = [int(line) for line in pids.read_text().split()]
    _wait(lambda: {_state(pid) for pid in members} == {"T"})
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _wait(lambda: {_state(pid) for pid in members} == {"gone"})


def test_a_group_says_how_its_command_ended(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        running = Group([sys.executable, "-c", "print('hello'); raise SystemExit(7)"], dict(os.environ), tmp_path, log)
        _wait(lambda: running.exit_code() is not None)
        assert running.exit_code() == 7
        running.close()
        running.close()
        log.seek(0)
        assert log.read() == b"hello\n"


def test_a_server_computes_in_its_turn_alone(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = [
        sys.executable,
        "-c",
        f"import os, time; open({str(pid)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(1e6)",
    ]
    with (
        (tmp_path / "log").open("w+b") as log,
        contextlib.closing(Group(command, dict(os.environ), tmp_path, log)) as running,
    ):
        _wait(lambda: pid.exists() and pid.read_text().endswith(" "))
        number = int(pid.read_text())
        server = Stopped(running, OpenAiServer("http://127.0.0.1:1"), "model", [], "stopped")
        _wait(lambda: _state(number) == "T")
        with contextlib.suppress(AskingError), server.turn():
            _wait(lambda: _state(number) != "T")
            raise AskingError("its turn ends all the same")
        _wait(lambda: _state(number) == "T")
