"""Which network interface of this machine has an address. Asked by ``llm_service.ranks``: Gloo takes an interface by its name only."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # man 7 netdevice
_IFREQ = struct.Struct("16s24s")
# In the answer, after the name and two fields of a sockaddr_in.
_ADDRESS_IN_IFREQ = slice(20, 24)
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def interface_with(address: str) -> str | None:
    """The interface whose IPv4 or IPv6 address this is; of several IPv4 addresses of one interface the first is known alone."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    if wanted.version == 4:
        names = (name for _, name in socket.if_nameindex())
        return next((name for name in names if _ipv4_address_of(name) == wanted), None)
    with contextlib.suppress(OSError):
        for digits, *_, name in map(str.split, _IPV6_ADDRESSES.read_text().splitlines()):
            if int(digits, 16) == int(wanted):
                return name
    return None


def _ipv4_address_of(interface: str) -> ipaddress.IPv4Address | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
        answer = fcntl.ioctl(asking, _SIOCGIFADDR, _IFREQ.pack(interface.encode(), b""))
        return ipaddress.IPv4Address(answer[_ADDRESS_IN_IFREQ])
    return None
