"""Ranks that are gone, silent, or stuck in a step are noticed."""

from __future__ import annotations

import socket
import struct
import subprocess
import time

import pytest

from specgrove.runtime import rank_liveness
from specgrove.runtime.rank_liveness import LivenessMonitor


def connected(monitor: LivenessMonitor) -> socket.socket:
    """A rank 1 that says nothing of itself; a failed monitor kills its process."""
    silent = subprocess.Popen(["sleep", "60"])
    connection = socket.create_connection(("127.0.0.1", monitor.port))
    connection.sendall(struct.pack("!II", 1, silent.pid))
    monitor.start()
    return connection


def test_a_rank_that_is_gone_is_named() -> None:
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    connected(monitor).close()
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        monitor.failed.result(timeout=5)


def test_a_silent_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_liveness, "_TIMEOUT_S", 3.0)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    connection = connected(monitor)
    for _ in range(8):  # while it speaks all is well
        connection.sendall(b".")
        time.sleep(0.5)
    assert not monitor.failed.done()
    with pytest.raises(RuntimeError, match="rank 1 has not answered for 3 s"):
        monitor.failed.result(timeout=10)
    connection.close()


def test_a_step_that_does_not_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_liveness, "_TIMEOUT_S", 60.0)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1", step_timeout_s=1.0)
    connection = connected(monitor)
    with monitor.step():
        pass
    time.sleep(2.0)
    assert not monitor.failed.done()
    with monitor.step(), pytest.raises(RuntimeError, match="not finished a step in 1 s"):
        monitor.failed.result(timeout=10)
    connection.close()
