"""Services that tests fork end as others do, and nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.suite import supervised
from tests import forked_services
from tests.forked_services import ForkedProcess, OwnForkers
from tests.pages.private_network import PrivateNetwork, networks
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parent.parent
STARTS_A_ROUTER = """
import os, sys, time
from specgrove.suite import supervised, supervisor

words = [sys.executable, "-m", supervised.__name__, str(os.getpid()), "router", "--address", "127.0.0.1:50051", "--llm", "127.0.0.1:1"]
print(supervisor.subprocess.Popen(words).pid, flush=True)
time.sleep(3600)
"""


def test_who_has_ended_and_is_not_told_of_may_be_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    status, its_status = os.pipe()
    output, its_output = os.pipe()
    os.write(its_status, forked_services._NUMBER.pack(ended.pid))
    os.close(its_output)
    process = ForkedProcess(status, output)
    process.terminate()
    process.kill()
    assert process.poll() is None
    os.write(its_status, forked_services._NUMBER.pack(3))
    assert process.wait(LIMIT_S) == 3
    os.close(its_status)
    process.stdout.close()


def test_what_forks_is_ended_and_waited_for() -> None:
    forking = OwnForkers()
    words = [sys.executable, "-m", supervised.__name__, str(os.getpid()), "router", "--help"]
    process = forking.Popen(words)
    assert process.stdout.read()
    assert process.wait(LIMIT_S) == 0
    process.stdout.close()
    ((_, forker),) = forking._forkers.values()
    forking.close()
    assert forker.returncode == 0
    wait_until(lambda: not Path(f"/proc/{forker.pid}").exists())


@pytest.fixture
def network() -> Iterator[PrivateNetwork]:
    yield from networks()


def test_a_commands_service_has_its_network_and_dies_with_it(
    network: PrivateNetwork, forked_services: OwnForkers, tmp_path: Path
) -> None:
    forked_services.expect("router")
    (tmp_path / "program.py").write_text(STARTS_A_ROUTER)
    words = [sys.executable, "-m", "tests.with_forked_services", str(forked_services.folder), f"{tmp_path}/program.py"]
    with network.started(words, cwd=ROOT) as command:
        assert command.stdout is not None
        try:
            pid = int(command.stdout.readline())
            assert b"tests.forked_services" in Path(f"/proc/{pid}/cmdline").read_bytes()
            own, its, the_commands = (Path(f"/proc/{found}/ns/net").readlink() for found in ("self", pid, command.pid))
            assert its == the_commands != own
        finally:
            command.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
