"""Looking a name up as the system does it (``/etc/hosts``, then DNS by ``/etc/resolv.conf``), beside the event loop.

In a thread of its own: a DNS server that is away holds it for many seconds, which neither other threads' work nor the end of the
process may wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading


async def look_up(name: str, port: int) -> tuple[str, ...]:
    """The IPv4 and IPv6 addresses of a name, each once. Raises ``OSError``, or ``UnicodeError`` for what can't be a name."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def answer(ip_addresses: tuple[str, ...], error: Exception | None) -> None:
        if found.done():  # nobody waits any more
            return
        if error is None:
            found.set_result(ip_addresses)
        else:
            found.set_exception(error)

    def ask() -> None:
        ip_addresses: tuple[str, ...] = ()
        failure: Exception | None = None
        try:
            answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            ip_addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in answers))
        except (OSError, UnicodeError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(answer, ip_addresses, failure)

    threading.Thread(target=ask, name=f"look up {name}", daemon=True).start()
    return await found
