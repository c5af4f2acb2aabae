"""Two hosts made of one machine: network namespaces with nothing in common but a cable (a veth pair), which tests cut and mend.

Processes are ``specgrove.suite.supervisor``'s, which starts again what dies, as kubelet would. Their gRPC clients in the test's own
namespace come in by unix sockets, which are files and know no namespaces.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from specgrove.suite.supervisor import ProcessSpec, Supervisor

ROOT = Path(__file__).parent.parent.parent
_INTERFACE = "eth0"
_PREFIX_LEN = 30
_DRAIN_S = 20.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace and its address on the cable."""

    namespace: str
    ip: str

    def at(self, port: int) -> str:
        """``HOST:PORT`` here."""
        return f"{self.ip}:{port}"

    def process(self, name: str, module: str, *arguments: str) -> ProcessSpec:
        """``python -m module arguments`` here."""
        return ProcessSpec(name, "tests.k8s.on_host", (self.namespace, module, *arguments))

    def pids(self) -> list[int]:
        """Of all processes here."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def lose_power(self) -> None:
        """All processes here end at once."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """``front`` and ``back``, and the cable between them."""

    front: Host
    back: Host

    def cut(self) -> None:
        """From now on no packet gets through, and neither end is told more than that its cable has no signal."""
        ip("-n", self.back.namespace, "link", "set", _INTERFACE, "down")

    def mend(self) -> None:
        """Packets get through again."""
        ip("-n", self.back.namespace, "link", "set", _INTERFACE, "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Skips the test where this machine gives no network namespaces."""
    name = f"specgrove-{os.getpid()}-{next(_numbers)}"
    hosts = TwoHosts(Host(f"{name}-front", "192.0.2.1"), Host(f"{name}-back", "192.0.2.2"))
    ends = (hosts.front, hosts.back)
    with contextlib.ExitStack() as made:
        for host in ends:
            try:
                ip("netns", "add", host.namespace)
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", None) or error
                pytest.skip(f"no network namespaces here, which take root and iproute2: {reason}")
            made.callback(ip, "netns", "del", host.namespace)
        front, back = (host.namespace for host in ends)
        ip("link", "add", _INTERFACE, "netns", front, "type", "veth", "peer", "name", _INTERFACE, "netns", back)
        for host in ends:
            ip("-n", host.namespace, "address", "add", f"{host.ip}/{_PREFIX_LEN}", "dev", _INTERFACE)
            for interface in ("lo", _INTERFACE):
                ip("-n", host.namespace, "link", "set", interface, "up")
        yield hosts


def ip(*arguments: str) -> str:
    """What iproute2 prints. Raises ``CalledProcessError``."""
    return subprocess.run(("ip", *arguments), check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Processes:
    """What runs on the hosts, and what it prints."""

    supervisor: Supervisor
    log: list[str] = field(default_factory=list)

    def has_said(self, text: str, since: int = 0) -> bool:
        """Whether a line of the log holds ``text``, from line number ``since`` on."""
        return any(text in line for line in self.log[since:])


@contextlib.contextmanager
def running(specs: Sequence[ProcessSpec]) -> Iterator[Processes]:
    """Started in this order, stopped in the reverse one; a failing test shows what they printed."""
    log: list[str] = []

    def keep(name: str, line: str) -> None:
        log.append(f"{name}: {line}")
        import time

        print(time.strftime("%H:%M:%S"), log[-1], flush=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        supervisor = Supervisor(specs, keep, _DRAIN_S)
        supervisor.expect_up()
        supervisor.start()
        try:
            yield Processes(supervisor, log)
        finally:
            supervisor.stop()
