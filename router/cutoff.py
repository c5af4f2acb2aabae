"""The end of requests that outlast the router's drain: told to their clients, the log and the metrics as what it is.

Owned by the servicer; ``RouterApp`` ends it. Invariant: after ``end`` no request waits for anything any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from specgrove.errors import UnavailableError


class Cutoff:
    """One per router."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[object]] = set()
        self._is_over = False

    def end(self) -> None:
        """What waits, and whatever would wait later, raises ``UnavailableError``."""
        self._is_over = True
        for task in self._waiting:
            task.cancel()

    @contextlib.contextmanager
    def bounding(self) -> Iterator[None]:
        """Around what one task waits for, not around a ``yield``: who goes on there may be another task. Such blocks are not nested."""
        self._check()
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            task.uncancel()
            raise _error() from None
        finally:
            self._waiting.discard(task)

    def _check(self) -> None:
        if self._is_over:
            raise _error()


def _error() -> UnavailableError:
    return UnavailableError("the router shut down before the output was complete; ask another router, or again later")
