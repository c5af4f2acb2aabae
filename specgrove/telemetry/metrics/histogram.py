"""Values by their size, as Prometheus wants them. Owned by the one thread that observes; any thread may read."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

# In seconds. Of forward passes and drafts; of what clients wait for.
PASS_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
WAIT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip


class Histogram:
    """How many values were at most each of ``bounds``, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` ascend; what is above the last one counts as well."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float, times: int = 1) -> None:
        """One value, or the same several times."""
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self.total += value * times

    @property
    def num(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[float, int]]:
        """Each bound with the number of values up to it; the last bound is infinite."""
        found, num = [], 0
        for bound, count in zip((*self._bounds, math.inf), list(self._counts), strict=True):
            num += count
            found.append((bound, num))
        return found
