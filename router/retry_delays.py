"""When refused clients should come again. Used by ``admission`` and ``key_limits``; pure, the time is ``time.monotonic()``.

Invariant: every refused client is told a place of its own: one comes free every mean service time / places. Told the same time, all would
come back at once, and all but a few be refused again.
"""

from __future__ import annotations

import heapq
import time
from random import Random

MAX_RETRY_DELAY_MS = 60_000
"""The longest time after which a refused client is asked to come again."""
_MIN_RETRY_DELAY_MS = 200
_SERVICE_TIME_WEIGHT = 0.1
# A little early on the whole: who comes early waits in the queue, who comes late leaves a place unused.
_SPREAD = (0.5, 1.1)


class RetryDelays:
    """Of one set of places."""

    def __init__(self, random: Random | None = None) -> None:
        """``random`` spreads the delays."""
        # A first guess, until requests have been served: rather too short, which costs one more try, than too long, which costs time.
        self._mean_service_s = 0.2
        self._num_served = 0
        self._random = random or Random()
        # A heap of the times at which refused clients were told to come back.
        self._promised_s: list[float] = []

    def learn(self, service_s: float) -> None:
        """A place was held for so long. A running mean: of all requests at first, then of about the last ten."""
        self._num_served += 1
        weight = max(1 / self._num_served, _SERVICE_TIME_WEIGHT)
        self._mean_service_s += weight * (service_s - self._mean_service_s)

    def next_ms(self, num_places: int) -> int:
        """For one more refused client, where there are so many places."""
        now_s = time.monotonic()
        while self._promised_s and self._promised_s[0] <= now_s:
            heapq.heappop(self._promised_s)
        turn_ms = (len(self._promised_s) + 1) * self._mean_service_s / num_places * 1e3
        limited_ms = min(max(turn_ms, _MIN_RETRY_DELAY_MS), MAX_RETRY_DELAY_MS)
        delay_ms = round(limited_ms * self._random.uniform(*_SPREAD))
        heapq.heappush(self._promised_s, now_s + delay_ms / 1e3)
        return delay_ms
