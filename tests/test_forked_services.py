"""Services that tests fork end as others do, and nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from specgrove.suite import supervised
from tests import forked_services
from tests.forked_services import ForkedProcess, ForkingSubprocess
from tests.waiting import LIMIT_S, wait_until


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
    forking = ForkingSubprocess()
    words = [sys.executable, "-m", supervised.__name__, str(os.getpid()), "router", "--help"]
    process = forking.Popen(words)
    assert process.stdout.read()
    assert process.wait(LIMIT_S) == 0
    process.stdout.close()
    ((_, forker),) = forking._forkers.values()
    forking.close()
    assert forker.returncode == 0
    wait_until(lambda: not Path(f"/proc/{forker.pid}").exists())
