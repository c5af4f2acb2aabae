"""What a process that was forked may do with gRPC. Used by ``connections``.

gRPC's threads are not copied by a fork. Plain channels start them anew, but not where a stream was under way; nothing for asyncio works
while a channel of the time before is open. A call would wait for ever then, or end the process: so it says what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator

from specgrove.errors import UnavailableError

_REMEDY = "begin the process with multiprocessing's spawn, and make the client there"


class Forks:
    """One per process, as gRPC is: ``of_process``."""

    def __init__(self) -> None:
        self._under_way: set[object] = set()
        self._async_channels = weakref.WeakSet[object]()
        self._had_async_channels = self._was_amid_stream = False

    @contextlib.contextmanager
    def call(self, *, is_stream: bool) -> Iterator[None]:
        """Around each call of a plain client. Raises ``UnavailableError`` where it would hang."""
        if self._was_amid_stream:
            raise UnavailableError(
                f"this process was forked while a stream was under way, and gRPC can't be used in it: end the stream before, or {_REMEDY}",
                may_retry=False,
            )
        key = object()
        if is_stream:
            self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.discard(key)

    def check_async_call(self) -> None:
        """Before each call of a client for asyncio. Raises ``UnavailableError`` where it would hang."""
        if self._had_async_channels:
            raise UnavailableError(
                "an AsyncClient that was used before this process was forked had not been closed, and none can be used in the new "
                f"one: close it before, use Client, or {_REMEDY}",
                may_retry=False,
            )

    def opened_async(self, channels: object) -> None:
        """These exist for asyncio until they are ``closed_async``, or nobody has them any more."""
        self._async_channels.add(channels)

    def closed_async(self, channels: object) -> None:
        """After that a fork does no harm."""
        self._async_channels.discard(channels)

    def forked(self) -> None:
        """In the new process."""
        self._had_async_channels |= bool(self._async_channels)
        self._was_amid_stream |= bool(self._under_way)
        self._under_way = set()


of_process = Forks()
os.register_at_fork(after_in_child=of_process.forked)
