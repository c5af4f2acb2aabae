"""Virtual time: what happens when. Owned by ``Simulation``; its parts put their events in.

Invariant: events happen in the order of their times, those of one time in the order in which they were put in.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Events:
    """``now_s`` is the time of what happens now."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = itertools.count()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, at_s: float, happen: Callable[[], None]) -> None:
        """Puts an event in."""
        heapq.heappush(self._coming, (at_s, next(self._numbers), happen))

    def run(self) -> None:
        """Till nothing is left to happen."""
        while self._coming:
            self.now_s, _, happen = heapq.heappop(self._coming)
            happen()
