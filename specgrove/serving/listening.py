"""Whether a server could listen at an address, and if not, why: gRPC says neither in words for people.

Asked by commands before they load models, and by servers that gRPC gave no port. HTTP's servers get their sockets here.
"""

from __future__ import annotations

import errno
import socket

from specgrove.addresses import is_unix, socket_path
from specgrove.serving.unix_socket import take_socket_path

_REASONS = {
    errno.EADDRINUSE: "another server does; give another port, or stop it",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EACCES: "ports below 1024 are for the administrator; give another one",
}


def check_can_listen(address: str) -> None:
    """Raises ``OSError``. A unix socket that nobody listens on is removed."""
    if is_unix(address):
        take_socket_path(socket_path(address))
        return
    host, _, port = address.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"can't listen on {address}: nobody knows the name {host!r}") from error
    problems = []
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # As gRPC does: what is left of old connections is no server.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
            return
        except OSError as error:
            problems.append(error)
    reason = _REASONS.get(problems[0].errno or 0, problems[0].strerror)
    raise OSError(f"can't listen on {address}: {reason}") from problems[0]


def bound_socket(address: str) -> socket.socket:
    """A socket that is bound there, for servers that take one. Raises ``OSError`` with what is wrong."""
    check_can_listen(address)
    if is_unix(address):
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(socket_path(address)))
        return bound
    host, _, port = address.rpartition(":")
    family, kind, _, _, place = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
    except OSError as error:
        bound.close()
        raise OSError(f"can't listen on {address}: {error.strerror}") from error
    return bound
