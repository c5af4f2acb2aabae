"""Addresses on this machine: one that is free, and one that another server has."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence


def free_address() -> str:
    """Nobody listens there now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def taken_address() -> Iterator[str]:
    """Somebody listens there within the block."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def free_addresses(num_addresses: int) -> tuple[str, ...]:
    """Addresses with ports that follow one another; nobody listens there now."""
    while True:
        host, _, port = free_address().rpartition(":")
        ports = [int(port) + number for number in range(num_addresses)]
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError, OverflowError):
            for number in ports:
                probes.enter_context(socket.socket()).bind((host, number))
            return tuple(f"{host}:{number}" for number in ports)


def free_port(hosts: Sequence[str]) -> int:
    """Nobody listens on it at any of the hosts now."""
    while True:
        port = int(free_address().rpartition(":")[2])
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for host in hosts:
                probes.enter_context(socket.socket()).bind((host, port))
            return port
