"""The routers that a client may ask: one address or several, and which of them is asked now. Used by ``client``.

All share one truth, the request and its output so far, so any of them can go on where another left off. Invariant: the one that answers
is kept; it is left only by a call that failed there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from specgrove.addresses import checked_target

Addresses = str | Iterable[str]
"""``HOST:PORT`` or ``unix:/path``, or several: ``"host1:50051,host2:50051"``, or a list."""

# Whose targets may have commas themselves.
_SCHEMES_WITH_LISTS = ("ipv4:", "ipv6:")


class Connects(Protocol):
    """``Connection`` and ``AsyncConnection``."""

    was_reached: bool


ConnectionT = TypeVar("ConnectionT", bound=Connects)


def addresses_of(address: Addresses) -> tuple[str, ...]:
    """Each once, in the order given. Raises ``ValueError`` that says what one looks like."""
    if isinstance(address, str):
        is_one = address.startswith(_SCHEMES_WITH_LISTS) or "," not in address
        found = [address] if is_one else [part.strip() for part in address.split(",")]
    elif isinstance(address, Iterable):
        found = list(address)
    else:
        found = [address]  # type: ignore[unreachable]  # of a wrong type, which the check names
    if not found:
        raise ValueError("address: the list is empty; give HOST:PORT or unix:/path, or several")
    return tuple(dict.fromkeys(checked_target(one) for one in found))


class Routers(Generic[ConnectionT]):
    """The connections of one client. Threads may share it."""

    def __init__(self, connections: Sequence[ConnectionT]) -> None:
        """At least one; the first is asked first."""
        self.all = tuple(connections)
        self._place = 0
        self._changing = threading.Lock()

    @property
    def current(self) -> ConnectionT:
        """The one for the next try."""
        return self.all[self._place]

    @property
    def was_reached(self) -> bool:
        """Whether anybody ever answered at one of the addresses."""
        return any(connection.was_reached for connection in self.all)

    def leave(self, connection: ConnectionT) -> None:
        """A call failed there: the next in turn is asked from now on. Nothing happens where another call has left it before."""
        with self._changing:
            if self.current is connection:
                self._place = (self._place + 1) % len(self.all)
