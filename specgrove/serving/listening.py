"""Whether a server could listen at an address, and if not, why: gRPC says neither in words for people.

Asked by commands before they load models, and by servers that gRPC gave no port. HTTP's servers get their sockets here.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from specgrove.addresses import is_unix, socket_path
from specgrove.serving.unix_socket import take_socket_path

_REASONS = {
    errno.EADDRINUSE: "another server does; give another port, or stop it",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EACCES: "ports below 1024 are for the administrator; give another one",
}


def check_can_listen(address: str) -> None:
    """Raises ``OSError``. A unix socket that nobody listens on is removed.

    A name may stand for several addresses, as localhost does. One that another server has is enough for a refusal: clients would reach
    that one or this one, by which they try first. One that the machine doesn't have is left aside.
    """
    if is_unix(address):
        take_socket_path(socket_path(address))
        return
    places, problems = _places_of(address), list[OSError]()
    for family, kind, place in places:
        try:
            _bound(family, kind, place).close()
        except OSError as error:
            problems.append(error)
    in_use = [error for error in problems if error.errno == errno.EADDRINUSE]
    if in_use or len(problems) == len(places):
        first = (in_use or problems)[0]
        raise OSError(f"can't listen on {address}: {_REASONS.get(first.errno or 0, first.strerror)}") from first


def bound_socket(address: str) -> socket.socket:
    """A socket that is bound there, for servers that take one. Raises ``OSError`` with what is wrong."""
    check_can_listen(address)
    if is_unix(address):
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(socket_path(address)))
        return bound
    problem = None
    for family, kind, place in _places_of(address):
        try:
            return _bound(family, kind, place)
        except OSError as error:
            problem = problem or error
    assert problem is not None
    raise OSError(f"can't listen on {address}: {problem.strerror}") from problem


def _places_of(address: str) -> list[tuple[int, int, Any]]:
    """Families, kinds and places of ``HOST:PORT``; at least one. Raises ``OSError``."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # no name could be so
        raise OSError(f"can't listen on {address}: nobody knows the name {host!r}") from error
    return [(family, kind, place) for family, kind, _, _, place in found]


def _bound(family: int, kind: int, place: Any) -> socket.socket:
    bound = socket.socket(family, kind)
    try:
        # As gRPC does: what is left of old connections is no server.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    return bound
