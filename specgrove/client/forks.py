"""What a process that was forked may do with gRPC. Used by ``connections``.

gRPC's threads are not copied by a fork. Its plain channels start them anew, but not where a call was under way; those for asyncio never.
A call would wait for ever then, or end the process: so it says what is wrong.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from specgrove.errors import UnavailableError

_REMEDY = "begin the process with multiprocessing's spawn, and make the client there"


class Forks:
    """One per process, as gRPC is: ``of_process``."""

    def __init__(self) -> None:
        self._under_way: set[object] = set()
        self._has_async_calls = False
        self._had_async_calls = self._was_amid_call = False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around each call of a plain client. Raises ``UnavailableError`` where it would hang."""
        if self._was_amid_call:
            raise UnavailableError(
                f"this process was forked while a call was under way, and gRPC can't be used in it: end the call before, or {_REMEDY}",
                may_retry=False,
            )
        key = object()
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.discard(key)

    def begin_async_call(self) -> None:
        """Before each call of a client for asyncio. Raises ``UnavailableError`` where it would hang."""
        if self._had_async_calls:
            raise UnavailableError(
                "an AsyncClient was used before this process was forked, and none can be used in the new one: use Client, or "
                + _REMEDY,
                may_retry=False,
            )
        self._has_async_calls = True

    def forked(self) -> None:
        """In the new process."""
        self._had_async_calls |= self._has_async_calls
        self._was_amid_call |= bool(self._under_way)
        self._under_way = set()


of_process = Forks()
os.register_at_fork(after_in_child=of_process.forked)
