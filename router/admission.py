"""Who may generate now, who waits, and who is sent away. Used by the servicer; pure asyncio.

Invariant: at most ``max_num_requests`` permits are out, permits are granted in order of arrival, and a waiting request that is
cancelled gives its place back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from specgrove.errors import ResourceExhaustedError

_MIN_RETRY_DELAY_MS = 100
_MAX_RETRY_DELAY_MS = 60_000
_SERVICE_TIME_WEIGHT = 0.1


class Admission:
    """One per router."""

    def __init__(self, max_num_requests: int, max_num_queued: int) -> None:
        self._max_num_requests = max_num_requests
        self._max_num_queued = max_num_queued
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        # A first guess, until requests have been served.
        self._mean_service_s = 1.0
        self.num_active = 0

    @property
    def num_queued(self) -> int:
        """Requests that wait for a permit."""
        return len(self._queue)

    @contextlib.asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """Waits for a permit and holds it. Raises ``ResourceExhaustedError`` when the queue is full."""
        await self._acquire()
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._mean_service_s += _SERVICE_TIME_WEIGHT * (time.monotonic() - started_s - self._mean_service_s)
            self._release()

    async def wait_idle(self) -> None:
        """Returns when nobody holds or awaits a permit."""
        await self._idle.wait()

    async def _acquire(self) -> None:
        if self.num_active < self._max_num_requests:
            self.num_active += 1
            self._idle.clear()
            return
        if len(self._queue) >= self._max_num_queued:
            raise ResourceExhaustedError(
                f"{self.num_active} requests are served and {len(self._queue)} wait, which is the most there may be",
                self._retry_delay_ms(),
            )
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The permit came in the same tick as the cancellation: pass it on.
                self._release()
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _release(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():  # else its waiter was cancelled in this very tick
                # The permit changes hands: ``num_active`` stays.
                turn.set_result(None)
                return
        self.num_active -= 1
        if self.num_active == 0:
            self._idle.set()

    def _retry_delay_ms(self) -> int:
        """When the queue should have a place: one permit comes free every mean service time / permits."""
        delay_ms = self._mean_service_s / self._max_num_requests * 1e3
        return int(min(max(delay_ms, _MIN_RETRY_DELAY_MS), _MAX_RETRY_DELAY_MS))
