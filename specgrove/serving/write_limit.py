"""How long a response of a stream may wait for its client to read. One object per stream, used by ``CallGuard``.

HTTP/2 lets a server send as much as its client makes room for by reading; then writing waits. Nearly all responses are taken at once, so
that the stream has one timer, which looks now and then how long the write under way has waited, and not one for each response.
Invariant: a write ends, or raises ``TimeoutError`` when it has waited for the whole time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self


class WriteLimit:
    """Made and used in ``with`` by the stream's task."""

    def __init__(self, timeout_s: float | None) -> None:
        """``None``: for ever."""
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._began_s: float | None = None  # the write under way
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def bound(self, writing: Awaitable[None]) -> None:
        """Waits for a write. Raises what it raises, or ``TimeoutError``."""
        assert self._task is not None
        num_cancelled = self._task.cancelling()
        if self._timeout_s is not None:
            self._began_s = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_at(self._began_s + self._timeout_s, self._look)
        try:
            await writing
        except asyncio.CancelledError:
            # As ``asyncio.timeout``: whoever else has cancelled the task meanwhile goes first.
            if self._took_back() and self._task.cancelling() <= num_cancelled:
                raise TimeoutError from None
            raise
        finally:
            self._began_s = None
            self._took_back()

    def _took_back(self) -> bool:
        """Whether the task was cancelled here; it no longer is, whatever the write made of it."""
        was_over, self._is_over = self._is_over, False
        if was_over and self._task is not None:
            self._task.uncancel()
        return was_over

    def _look(self) -> None:
        self._timer = None
        if self._began_s is None or self._timeout_s is None or self._task is None:
            return  # the next write sets it anew
        until_s = self._began_s + self._timeout_s
        if self._loop.time() < until_s:
            self._timer = self._loop.call_at(until_s, self._look)
        else:
            self._is_over = True
            self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
