"""The network of a cluster of one node: each pod has a namespace and an address of its own on a bridge, and DNS knows the Services' names.

Addresses are of the range for benchmarks (RFC 2544), so that they are nobody's. DNS is dnsmasq; it has no other names.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.k8s.two_hosts import Host, ip

DOMAIN = "specgrove.svc.cluster.local"
_SUBNET = "198.18.0"
GATEWAY = f"{_SUBNET}.1"
_FIRST_POD = 10
# Else a bridge has the lowest of its ports' addresses, and pods that know the gateway by an older one reach it no more for a minute.
_BRIDGE_MAC = "02:00:c6:12:00:01"


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """Made by ``pod_network``."""

    bridge: str
    hosts_file: Path
    dns: subprocess.Popen[bytes]
    numbers: Iterator[int]

    def add(self) -> Host:
        """A namespace with a new address."""
        number = next(self.numbers)
        host = Host(f"{self.bridge}-{number}", f"{_SUBNET}.{number}")
        outer = f"{self.bridge}v{number}"
        ip("netns", "add", host.namespace)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        ip("link", "set", outer, "master", self.bridge, "up")
        ip("-n", host.namespace, "address", "add", f"{host.ip}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            ip("-n", host.namespace, "link", "set", interface, "up")
        return host

    def remove(self, host: Host) -> None:
        """The namespace, and with it its end of the cable."""
        ip("netns", "del", host.namespace)

    def publish(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """From now on DNS has these addresses for Services, and no others."""
        lines = [f"{address} {service}.{DOMAIN}\n" for service, found in addresses.items() for address in found]
        written = self.hosts_file.with_suffix(".new")
        written.write_text("".join(lines))
        written.rename(self.hosts_file)
        self.dns.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def pod_network(folder: Path) -> Iterator[PodNetwork]:
    """Its file lies in ``folder``. Skips the test where this machine gives no bridges."""
    bridge = f"sg{os.getpid()}"  # an interface's name has 15 bytes
    hosts_file = folder / "hosts"
    hosts_file.touch()
    try:
        ip("link", "add", bridge, "address", _BRIDGE_MAC, "type", "bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no bridges here, which take root and iproute2: {getattr(error, 'stderr', None) or error}")
    try:
        ip("address", "add", f"{GATEWAY}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        command = (
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts_file}",
            f"--local=/{DOMAIN}/", f"--listen-address={GATEWAY}", "--bind-interfaces", "--user=root", "--pid-file=",
        )  # fmt: skip
        with subprocess.Popen(command) as dns:
            try:
                yield PodNetwork(bridge, hosts_file, dns, itertools.count(_FIRST_POD))
            finally:
                dns.terminate()
    finally:
        ip("link", "del", bridge)
