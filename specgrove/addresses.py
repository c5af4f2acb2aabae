"""What an address looks like: ``HOST:PORT`` or ``unix:/path``; of services behind a router also ``dns:NAME:PORT``."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# What the kernel takes of a unix socket's path (man 7 unix), the zero byte at its end left aside.
MAX_SOCKET_PATH_BYTES = 107
# gRPC takes it for the end of an address, in whatever way it is written.
NOT_IN_SOCKET_PATHS = ","
_DNS = "dns:"
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(%[^\s\]/]+)?\]|[^\s\0-\x1f\x7f/:\[\]]+):([0-9]{1,5})")
# Ways to name servers that gRPC's clients know besides: https://grpc.github.io/grpc/core/md_doc_naming.html
_NAMING_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix-abstract:", "vsock:", "xds:")


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where one replica of a service is.

    ``target`` is what a channel connects to, ``HOST:PORT`` or ``unix:/path``. ``server_name`` is the name that the target was found
    by, where that is another than the target's host: the one that a certificate has to bear.
    """

    target: str
    server_name: str | None = None

    def __str__(self) -> str:
        """The target, as logs and metrics name a replica."""
        return self.target


@dataclass(frozen=True, slots=True)
class DnsName:
    """``dns:NAME:PORT``: every address of the name is a replica."""

    name: str
    port: int

    def __str__(self) -> str:
        """As it is typed."""
        return f"{_DNS}{self.name}:{self.port}"

    def replica_at(self, ip_address: str) -> ReplicaAddress:
        """The replica at one of the name's addresses, IPv4 or IPv6."""
        host = f"[{ip_address}]" if ":" in ip_address else ip_address
        return ReplicaAddress(f"{host}:{self.port}", self.name)


def is_unix(address: str) -> bool:
    """Whether ``address`` is ``unix:/path`` rather than ``HOST:PORT``."""
    return address.startswith("unix:")


def socket_path(address: str) -> Path:
    """Of ``unix:path``, ``unix:/path`` or ``unix:///path``."""
    path = address.removeprefix("unix:")
    return Path(path[2:] if path.startswith("//") else path)


def grpc_target(address: str) -> str:
    """The address as gRPC takes it, which reads the path of a unix socket as part of a URL: ``%41`` would be an A, and ``#`` the end."""
    if not is_unix(address):
        return address
    path = os.fsencode(socket_path(address))
    return f"unix:{quote(b'/' + path.lstrip(b'/') if path.startswith(b'/') else path)}"


def stays_on_this_machine(address: str) -> bool:
    """Whether what is sent to an address leaves no machine: a unix socket, or the loopback interface by its usual names."""
    if address.startswith(("unix:", "unix-abstract:", "vsock:")):
        return True
    host = address.rpartition("/")[2].removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_address(address: str) -> str:
    """The address, for gRPC, or ``ValueError`` that says what one looks like."""
    _check_commas(address)
    return checked_socket_address(address)


def _check_commas(address: str) -> None:
    if is_unix(address) and NOT_IN_SOCKET_PATHS in address:
        raise ValueError(f"address: the path of a unix socket can have no comma, gRPC ends it there, got {address!r}")


def checked_socket_address(address: str) -> str:
    """As ``checked_address``, for any protocol."""
    if is_unix(address):
        is_right = len(address) > len("unix:") and "\0" not in address
    else:
        found = _HOST_AND_PORT.fullmatch(address)
        is_right = found is not None and int(found[3]) <= 65535
    if is_right:
        return address
    raise ValueError(f"address must be HOST:PORT or unix:/path (IPv6 as [HOST]:PORT), got {address!r}")


def checked_service_address(address: str) -> str:
    """As ``checked_address``, for services behind a router: ``dns:NAME:PORT`` will do, too."""
    if address.startswith(_DNS):
        found = _HOST_AND_PORT.fullmatch(address.removeprefix(_DNS))
        if found is None or found[1].startswith("[") or not 1 <= int(found[3]) <= 65535:
            raise ValueError(f"address must be dns:NAME:PORT, with a port from 1 to 65535, got {address!r}")
        return address
    _check_commas(address)
    try:
        return checked_address(address)
    except ValueError:
        raise ValueError(
            f"address must be HOST:PORT, dns:NAME:PORT or unix:/path (IPv6 as [HOST]:PORT), got {address!r}"
        ) from None


def service_at(address: str) -> ReplicaAddress | DnsName:
    """What an address stands for that ``checked_service_address`` has let through."""
    if not address.startswith(_DNS):
        return ReplicaAddress(address)
    name, _, port = address.removeprefix(_DNS).rpartition(":")
    return DnsName(name, int(port))


def checked_tcp_address(address: str) -> str:
    """The same of ``HOST:PORT`` alone."""
    if is_unix(checked_address(address)):
        raise ValueError(f"address must be HOST:PORT, got {address!r}")
    return address


def next_ports(address: str, num_addresses: int) -> tuple[str, ...]:
    """``HOST:PORT`` and those with the ports that follow. Raises ``ValueError`` where there are no such ports."""
    host, _, port = address.rpartition(":")
    if not 1 <= int(port) <= 65536 - num_addresses:
        raise ValueError(
            f"{address} and the next {num_addresses - 1} ports must be from 1 to 65535: give a port up to {65536 - num_addresses}"
        )
    return tuple(f"{host}:{int(port) + number}" for number in range(num_addresses))


def checked_target(address: str) -> str:
    """As ``checked_address``, for clients: what gRPC calls a target will do, too."""
    if not isinstance(address, str):
        raise ValueError(f"address must be a text, HOST:PORT or unix:/path, got a {type(address).__name__}")
    if address.startswith(_NAMING_SCHEMES):
        return address
    if is_unix(address) and len(os.fsencode(socket_path(address))) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"address: a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes, got {address!r}")
    return checked_address(address)


def checked_http_address(text: str) -> str:
    """The address of an HTTP API, which may be given as a URL. Raises ``ValueError``."""
    return checked_socket_address(text.removeprefix("http://").removeprefix("https://").rstrip("/").removesuffix("/v1"))
