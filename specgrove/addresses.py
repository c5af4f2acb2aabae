"""What an address looks like: ``HOST:PORT`` or ``unix:/path``."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

# What the kernel takes of a unix socket's path (man 7 unix), the zero byte at its end left aside.
MAX_SOCKET_PATH_BYTES = 107
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(%[^\s\]/]+)?\]|[^\s/:\[\]]+):([0-9]{1,5})")
# Ways to name servers that gRPC's clients know besides: https://grpc.github.io/grpc/core/md_doc_naming.html
_NAMING_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix-abstract:", "vsock:", "xds:")


def is_unix(address: str) -> bool:
    """Whether ``address`` is ``unix:/path`` rather than ``HOST:PORT``."""
    return address.startswith("unix:")


def socket_path(address: str) -> Path:
    """Of ``unix:path``, ``unix:/path`` or ``unix:///path``."""
    path = address.removeprefix("unix:")
    return Path(path[2:] if path.startswith("//") else path)


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
    """The address, or ``ValueError`` that says what one looks like."""
    if is_unix(address):
        is_right = len(address) > len("unix:") and "\0" not in address
    else:
        found = _HOST_AND_PORT.fullmatch(address)
        is_right = found is not None and int(found[3]) <= 65535
    if is_right:
        return address
    raise ValueError(f"address must be HOST:PORT or unix:/path (IPv6 as [HOST]:PORT), got {address!r}")


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
    return checked_address(text.removeprefix("http://").removeprefix("https://").rstrip("/").removesuffix("/v1"))
