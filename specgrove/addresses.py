"""What an address looks like: ``HOST:PORT`` or ``unix:/path``."""

from __future__ import annotations


def is_unix(address: str) -> bool:
    """Whether ``address`` is ``unix:/path`` rather than ``HOST:PORT``."""
    return address.startswith("unix:")


def checked_address(address: str) -> str:
    """The address, or ``ValueError`` that says what one looks like."""
    host, _, port = address.rpartition(":")
    is_tcp = bool(host) and port.isdigit() and int(port) <= 65535
    if (is_unix(address) and len(address) > len("unix:")) or (is_tcp and not is_unix(address)):
        return address
    raise ValueError(f"address must be HOST:PORT or unix:/path, got {address!r}")
