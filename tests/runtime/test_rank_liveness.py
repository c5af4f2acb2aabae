"""Ranks that are gone, silent, or stuck in a step are noticed."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from specgrove.runtime import rank_liveness
from specgrove.runtime.rank_liveness import Door, LivenessMonitor
from tests.waiting import LIMIT_S


def connected(monitor: LivenessMonitor, *, has_begun: bool = True) -> socket.socket:
    """A rank 1 that says nothing of itself; a failed monitor kills its process."""
    silent = subprocess.Popen(["sleep", "3600"])
    connection = socket.create_connection(("127.0.0.1", monitor.door.port))
    connection.sendall(struct.pack("!16sII", monitor.door.secret, 1, silent.pid))
    if has_begun:
        monitor.begin_service()
    monitor.start()
    return connection


def test_a_rank_that_is_gone_is_named() -> None:
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    connected(monitor).close()
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        monitor.failed.result(timeout=LIMIT_S)


def test_all_ranks_that_are_gone_are_named_whichever_is_heard_first() -> None:
    """Who computed with the lost rank has ended, too, and says no more about it than the lost one."""
    monitor = LivenessMonitor(4, lambda rank: f"rank {rank}", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        connections = {}
        for rank in (2, 3, 1):
            silent = stack.enter_context(subprocess.Popen(["sleep", "3600"]))
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", monitor.door.port)))
            connection.sendall(struct.pack("!16sII", monitor.door.secret, rank, silent.pid))
            connections[rank] = connection
        monitor.begin_service()
        monitor.start()
        connections[2].close()
        connections[3].close()
        assert monitor.reason() == "rank 2 and rank 3 are gone"


def test_where_all_ranks_live_there_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_liveness, "_NOTICE_S", 0.01)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    with connected(monitor):
        assert monitor.reason() is None


class Turns:
    """A clock that tests turn, for a monitor whose thread looks at it many times a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = 1000.0
        self._num_asked = 0
        monkeypatch.setattr(rank_liveness, "_INTERVAL_S", 0.002)
        monkeypatch.setattr(rank_liveness, "time", SimpleNamespace(monotonic=self._monotonic))

    def _monotonic(self) -> float:
        self._num_asked += 1
        return self._now_s

    def advance(self, passed_s: float) -> None:
        """Returns when the monitor has looked at the new time, and seen nothing amiss or failed."""
        self._now_s += passed_s
        self.wait_for_looks()

    def wait_for_looks(self) -> None:
        until_asked = self._num_asked + 5
        while self._num_asked < until_asked and not self._has_failed():
            time.sleep(0.001)

    def watch(self, monitor: LivenessMonitor) -> None:
        self._has_failed = monitor.failed.done


def test_a_silent_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Turns(monkeypatch)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    clock.watch(monitor)
    connection = connected(monitor)
    for _ in range(4):  # while it speaks all is well
        connection.sendall(b".")
        clock.wait_for_looks()
        clock.advance(0.9 * rank_liveness._TIMEOUT_S)
        assert not monitor.failed.done()
    clock.advance(0.2 * rank_liveness._TIMEOUT_S)
    with pytest.raises(RuntimeError, match=f"rank 1 has not answered for {rank_liveness._TIMEOUT_S:.0f} s"):
        monitor.failed.result(timeout=LIMIT_S)
    connection.close()


def test_a_pass_that_does_not_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Turns(monkeypatch)
    monkeypatch.setattr(rank_liveness, "_TIMEOUT_S", 1e9)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    monitor.limit_passes(7.0)
    clock.watch(monitor)
    connection = connected(monitor)
    with monitor.passing():
        clock.advance(6.0)
    clock.advance(6.0)  # between two steps time doesn't count
    assert not monitor.failed.done()
    with monitor.passing():
        clock.advance(8.0)
        with pytest.raises(RuntimeError, match="not finished a pass in 7 s"):
            monitor.failed.result(timeout=LIMIT_S)
    connection.close()


def test_connections_that_are_no_ranks_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_liveness, "_HELLO_TIMEOUT_S", 0.05)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}")
    assert monitor._listener.getsockname()[0] == "127.0.0.1"  # nobody else can even try
    address = ("127.0.0.1", monitor.door.port)
    strays = [socket.create_connection(address) for _ in range(4)]
    strays[0].sendall(struct.pack("!16sII", b"guessed", 1, 1))
    strays[1].sendall(b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n")
    strays[2].close()  # the fourth says nothing
    rank = connected(monitor)
    assert not monitor.failed.done()
    for stray in (strays[0], strays[1], strays[3]):
        stray.settimeout(LIMIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert stray.recv(1) == b""
    rank.close()
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        monitor.failed.result(timeout=LIMIT_S)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("192.0.2.1", id="another machine's, translated on the way"),
        pytest.param("localhost", id="a name that is this machine's loopback here, and not where the others are"),
        pytest.param("unknown.invalid", id="a name that this machine doesn't know"),
    ],
)
def test_ranks_get_in_however_this_machine_sees_the_name_they_know_it_by(host: str) -> None:
    with rank_liveness._listener_on(host) as listener:
        for address in ("127.0.0.1", "127.0.0.2"):
            socket.create_connection((address, listener.getsockname()[1])).close()


def test_ranks_of_one_machine_come_from_it_alone() -> None:
    assert rank_liveness._listener_on(rank_liveness.LOOPBACK).getsockname()[0] == "127.0.0.1"


def test_ranks_are_told_by_which_address_they_have_met() -> None:
    monitor = LivenessMonitor(2, str, "127.0.0.1")
    door = Door.from_bytes(monitor.door.to_bytes())
    assert door == monitor.door
    program = f"from specgrove.runtime.rank_liveness import *; print(watch_rank_0('127.0.0.1', {door!r}, 1))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as follower:
        assert monitor.start() == "127.0.0.1"
        monitor.expect_ends()
        assert follower.communicate()[0] == "127.0.0.1\n"


def test_a_rank_that_is_lost_before_the_service_begins_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody awaits the failure yet, and connecting to a rank that is gone may take for ever."""
    exit_codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(rank_liveness.os, "_exit", exit_codes.put)
    monitor = LivenessMonitor(2, lambda rank: f"rank {rank}", "127.0.0.1")
    connected(monitor, has_begun=False).close()
    assert exit_codes.get(timeout=LIMIT_S) == 1
    assert [record.message for record in caplog.records] == ["rank 1 is gone"]
