"""Notices within seconds that a rank is gone or hangs. Every other rank keeps a connection to rank 0 and sends a byte each half second.

A collective call can wait for minutes for a rank that will never answer; these threads don't depend on such calls. Rank 0 owns a
``LivenessMonitor``; the others call ``watch_rank_0`` once, and end when rank 0 is gone or out of reach. Ranks that all live and yet wait
for each other are found by the time that a pass takes. Ranks connect here before they connect for computing, which can wait for ever, too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import secrets
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_TIMEOUT_S = 4.0
# In which a connection must say which rank it is.
_HELLO_TIMEOUT_S = 2.0
_CONNECT_TIMEOUT_S = 30.0
# Ranks that compute with one that is gone end, too, and may be heard first: so long it is waited for others that are gone, to name all.
_GATHER_S = 0.25
# In which a rank that is gone is noticed, also by a busy machine.
_NOTICE_S = 3.0
LOOPBACK = "127.0.0.1"
_SECRET_LEN = 16
_DOOR = struct.Struct(f"!H{_SECRET_LEN}s")
_HELLO = struct.Struct(f"!{_SECRET_LEN}sII")  # the secret, rank and process id


@dataclass(frozen=True, slots=True)
class Door:
    """How the other ranks get in: where rank 0 listens, and what they must know."""

    port: int
    secret: bytes

    def to_bytes(self) -> bytes:
        """For the store that all ranks read."""
        return _DOOR.pack(self.port, self.secret)

    @classmethod
    def from_bytes(cls, told: bytes) -> Self:
        """Of ``to_bytes``."""
        return cls(*_DOOR.unpack(told))


@dataclass(slots=True)
class _Peer:
    rank: int
    pid: int
    last_heard_s: float


class LivenessMonitor:
    """Rank 0's side. ``failed`` becomes an exception, a ``RuntimeError`` that names the rank, when one is gone.

    Until ``begin_service`` nobody awaits ``failed``: a failure ends this process, which may be in a call that never returns.
    """

    def __init__(
        self,
        num_ranks: int,
        describe: Callable[[int], str],
        host: str = LOOPBACK,
    ) -> None:
        """Listens on ``host`` alone, the name or address that the other ranks know rank 0 by, where they reach this machine by it."""
        self.failed: Future[object] = Future()
        self.failed.set_running_or_notify_cancel()
        self._num_ranks = num_ranks
        self._describe = describe
        self._is_one_machine = host == LOOPBACK
        self._listener = _listener_on(host)
        self._secret = secrets.token_bytes(_SECRET_LEN)
        self._pass_timeout_s = math.inf
        self._pass_started_s: float | None = None
        self._is_starting = True
        self._is_closing = False
        self._peers: list[_Peer] = []
        self._thread = threading.Thread(target=self._run, name="rank-liveness", daemon=True)

    @property
    def door(self) -> Door:
        """For the other ranks."""
        return Door(int(self._listener.getsockname()[1]), self._secret)

    def start(self) -> str:
        """Waits until all ranks have connected, then watches them from a thread. Other connections are turned away.

        Returns the address of this machine that ranks have reached; where they came by several, one that other machines reach.
        """
        self._selector = selectors.DefaultSelector()
        missing = set(range(1, self._num_ranks))
        addresses = set()
        while missing:
            connection, _ = self._listener.accept()
            rank, pid = self._greeting_of(connection)
            if rank not in missing:
                connection.close()
                continue
            missing.remove(rank)
            addresses.add(_own_address(connection))
            peer = _Peer(rank, pid, time.monotonic())
            self._peers.append(peer)
            self._selector.register(connection, selectors.EVENT_READ, peer)
        self._listener.close()
        self._thread.start()
        return min(sorted(addresses), key=is_loopback)

    def _greeting_of(self, connection: socket.socket) -> tuple[int, int]:
        """Rank and process id; rank 0 of a connection that is not another rank's."""
        connection.settimeout(_HELLO_TIMEOUT_S)
        try:
            secret, rank, pid = _HELLO.unpack(connection.recv(_HELLO.size, socket.MSG_WAITALL))
        except (OSError, struct.error):
            return 0, 0
        connection.settimeout(None)
        return (rank, pid) if secrets.compare_digest(secret, self._secret) else (0, 0)

    def begin_service(self) -> None:
        """From now on whoever serves awaits ``failed``."""
        self._is_starting = False

    def limit_passes(self, timeout_s: float) -> None:
        """The most that a pass may take, which depends on the model; until then there is no limit."""
        self._pass_timeout_s = timeout_s

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """A pass runs in it, which must end in time."""
        self._pass_started_s = time.monotonic()
        try:
            yield
        finally:
            self._pass_started_s = None

    def reason(self) -> str | None:
        """Why a pass has failed, as far as ranks that are gone are the reason: a call of theirs fails before they are missed here.

        Waits for that some seconds. A pass that failed for any other reason waits as long, and is told then.
        """
        with contextlib.suppress(TimeoutError):
            return str(self.failed.exception(timeout=_NOTICE_S))
        return None

    def expect_ends(self) -> None:
        """Ranks may end from now on."""
        self._is_closing = True

    def wait_for_ends(self, timeout_s: float) -> None:
        """After ``expect_ends``: until all other ranks have ended; those of this machine that don't are killed."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._kill_local()

    def _run(self) -> None:
        while self._selector.get_map() and not self.failed.done():
            if gone := self._hear(_INTERVAL_S):
                self._fail_of(gone)
            now_s = time.monotonic()
            started_s = self._pass_started_s
            if self._is_closing:
                continue
            if started_s is not None and now_s - started_s > self._pass_timeout_s:
                self._fail(f"the ranks have not finished a pass in {self._pass_timeout_s:.0f} s")
            for key in self._selector.get_map().values():
                if now_s - key.data.last_heard_s > _TIMEOUT_S:
                    self._fail(f"{self._describe(key.data.rank)} has not answered for {_TIMEOUT_S:.0f} s")

    def _hear(self, timeout_s: float) -> list[_Peer]:
        """Waits for signs of life; returns whose connections have ended instead."""
        gone = []
        for key, _ in self._selector.select(timeout_s):
            connection, peer = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            try:
                is_alive = bool(connection.recv(64))
            except OSError:
                is_alive = False
            if is_alive:
                peer.last_heard_s = time.monotonic()
            else:
                self._selector.unregister(connection)
                connection.close()
                gone.append(peer)
        return gone

    def _fail_of(self, gone: list[_Peer]) -> None:
        if self._is_closing:
            return
        for _ in self._peers:  # who lives is heard, too, and a wait ends with it
            gone += self._hear(_GATHER_S) if self._selector.get_map() else []
        names = [self._describe(peer.rank) for peer in sorted(gone, key=lambda peer: peer.rank)]
        self._fail(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} gone")

    def _fail(self, message: str) -> None:
        if self._is_closing or self.failed.done():
            return
        self.failed.set_exception(RuntimeError(message))
        self._kill_local()
        if self._is_starting:
            logger.error("%s", message)
            os._exit(1)

    def _kill_local(self) -> None:
        for peer in self._peers if self._is_one_machine else ():
            with contextlib.suppress(ProcessLookupError):  # one that hangs would not end when it is told to
                os.kill(peer.pid, signal.SIGKILL)


def _listener_on(host: str) -> socket.socket:
    if host == LOOPBACK:
        return socket.create_server((host, 0))
    # Not an address of this machine where it is translated on the way, as a service's on Kubernetes; and many a machine
    # knows its own name as an address of the loopback (127.0.1.1), which the others don't reach.
    with contextlib.suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        if not is_loopback(str(address[0])):
            return socket.create_server((str(address[0]), 0), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an IP address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _own_address(connection: socket.socket) -> str:
    """IPv4's as such, also where the socket is one for both."""
    return str(connection.getsockname()[0]).removeprefix("::ffff:")


def watch_rank_0(host: str, door: Door, rank: int) -> str:
    """Connects, then sends signs of life from a thread, which ends this process when rank 0 is gone or out of reach.

    Returns the address of this machine that reaches rank 0.
    """
    connection = socket.create_connection((host, door.port), timeout=_CONNECT_TIMEOUT_S)
    connection.settimeout(None)
    # Else Linux goes on trying for a quarter of an hour after a cable was pulled.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(_TIMEOUT_S * 1e3))
    connection.sendall(_HELLO.pack(door.secret, rank, os.getpid()))

    def beat() -> None:
        while True:
            try:
                connection.sendall(b".")
            except OSError:
                os._exit(1)
            time.sleep(_INTERVAL_S)

    threading.Thread(target=beat, name="rank-liveness", daemon=True).start()
    return _own_address(connection)
