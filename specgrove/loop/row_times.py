"""How long a forward pass of a number of rows takes on one LLM replica: learnt from what it measured at the start, and from real steps.

The router has one for each replica, told by all its sessions and asked by their tree policies; the LLM service has its own, by which it
leaves out rows that don't pay. Invariant: nothing is decided for ever. What was
measured once, perhaps on a busy machine, counts little beside real steps, and what was not seen for long becomes uncertain again.

The logarithm of a time is a common *load* (machines are shared) plus, for each number of rows, what those take beside others: a
small Kalman filter, whose variances say which of the two a surprise is laid to.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# Points of the curve; a number of rows belongs to the last point that is not above it.
_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
# Before anything is known of it a pass of so many rows takes twice the time of one.
_DOUBLING_ROWS = 24
# Variances of logarithms. Of one step's time; of a time measured at the start; of a number of rows that was not seen, by doublings
# from the next that was.
_STEP_NOISE = 0.15**2
_MEASURED_NOISE = 0.4**2
_NOISE_PER_DOUBLING = 0.15**2
# Of the load: what is not known of it at first, and how far it moves from one step to the next.
_FIRST_LOAD_NOISE = 0.5**2
_LOAD_DRIFT = 0.03**2
# Of a point: from one step of the replica to the next, at least and at most.
_POINT_DRIFT = 0.3**2 / 2000
_MIN_POINT_NOISE = 0.02**2
_MAX_POINT_NOISE = 1.0
# One step's surprise counts up to this, and what is known is no surer for it: a step that was held up says little, and the next one
# more; a machine that has changed says it again and again.
_MAX_SURPRISE = 0.35


@dataclass(slots=True)
class _Point:
    """What is known of one number of rows: the logarithm of its time, less load and assumed shape, as of ``num_seen`` steps."""

    value: float
    variance: float
    num_seen: int


class RowTimes:
    """The learnt curve of one replica."""

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}
        self._rows: list[int] = []  # of the points, ascending
        self._curve: dict[int, float] | None = None  # made when it is asked for
        self._load = 0.0
        self._load_variance = _FIRST_LOAD_NOISE
        self._num_seen = 0

    @property
    def is_known(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self._rows)

    def learn_measured(self, pass_times: Iterable[tuple[int, float]]) -> None:
        """(rows, ms) as the replica measured them when it was idle."""
        for num_rows, ms in pass_times:
            if num_rows < 1 or ms <= 0:
                continue
            rows, found = _point_of(num_rows), math.log(ms) - _shape(num_rows) - self._load
            point = self._points.get(rows)
            if point is None:
                self._add(rows, found, _MEASURED_NOISE)
            else:
                variance = self._now(point)
                gain = variance / (variance + _MEASURED_NOISE)
                self._set(point, point.value + gain * (found - point.value), variance * (1 - gain))
        # They were measured under one load, whatever it was.
        self._load_variance = _FIRST_LOAD_NOISE

    def observe(self, num_rows: int, ms: float) -> None:
        """A real step."""
        if num_rows < 1 or ms <= 0:
            return
        self._num_seen += 1
        rows, found = _point_of(num_rows), math.log(ms) - _shape(num_rows) - self._load
        if not self._points:
            self._add(rows, found, _STEP_NOISE)
            self._load_variance = _LOAD_DRIFT  # the load is 0 by this step
            return
        if rows not in self._points:
            self._add(rows, self._log_ms(num_rows) - _shape(num_rows), self._variance_at(num_rows))
        point = self._points[rows]
        variance = self._now(point)
        self._load_variance += _LOAD_DRIFT
        surprise = min(max(found - point.value, -_MAX_SURPRISE), _MAX_SURPRISE)
        learnt = 1.0 if surprise == found - point.value else 0.0
        total = variance + self._load_variance + _STEP_NOISE
        point_gain, load_gain = variance / total, self._load_variance / total
        self._set(point, point.value + point_gain * surprise, variance * (1 - learnt * point_gain))
        self._load += load_gain * surprise
        self._load_variance *= 1 - learnt * load_gain

    def ms(self, num_rows: int, optimism: float = 0.0) -> float:
        """The time expected; with ``optimism``, so many standard deviations below it, but not below that of fewer rows."""
        if not optimism:
            return math.exp(self._log_ms(num_rows) + self._load)
        return next(self.times([num_rows], optimism))

    def times(self, nums_rows: Sequence[int], optimism: float = 0.0) -> Iterator[float]:
        """As ``ms``, of several numbers of rows, which ascend."""
        curve, index, hoped_of_fewer = self._monotonic(), 0, -math.inf
        for num_rows in nums_rows:
            value = self._log_ms(num_rows)
            if optimism:
                while index < len(self._rows) and self._rows[index] < num_rows:
                    rows = self._rows[index]
                    hoped_of_fewer = max(hoped_of_fewer, curve[rows] - optimism * self.deviation(rows))
                    index += 1
                value = max(value - optimism * self.deviation(num_rows), hoped_of_fewer)
            yield math.exp(value + self._load)

    def curve(self, first: int, last: int, optimism: float = 0.0) -> list[float]:
        """The times of all numbers of rows from ``first`` to ``last``, as ``times``: on lines between ``points``."""
        nums_rows, found = self.points(first, last, optimism)
        curve = found[:1]
        for (low, high), (low_ms, high_ms) in zip(
            itertools.pairwise(nums_rows), itertools.pairwise(found), strict=True
        ):
            step_ms = (high_ms - low_ms) / (high - low)
            curve.extend(low_ms + step_ms * index for index in range(1, high - low + 1))
        return curve

    def points(self, first: int, last: int, optimism: float = 0.0) -> tuple[list[int], list[float]]:
        """Numbers of rows from ``first`` to ``last``, those next to each other in ``_ROWS``, and their times, as ``times``."""
        nums_rows = sorted({first, *(rows for rows in _ROWS if first < rows < last), last})
        return nums_rows, list(self.times(nums_rows, optimism))

    def deviation(self, num_rows: int) -> float:
        """The standard deviation of the logarithm of the time expected, beside other numbers of rows."""
        return math.sqrt(self._variance_at(num_rows))

    def _monotonic(self) -> dict[int, float]:
        """The logarithms of the points' times, without the load: more rows never take less time.

        Where they seem to, those are put together at their mean, weighted by how well each is known (pool adjacent violators).
        """
        if self._curve is None:
            blocks: list[tuple[float, float, int]] = []  # value, weight, number of points
            for rows in self._rows:
                point = self._points[rows]
                value, weight, size = point.value + _SHAPES[rows], 1 / self._now(point), 1
                while blocks and blocks[-1][0] > value:
                    other, other_weight, other_size = blocks.pop()
                    value = (value * weight + other * other_weight) / (weight + other_weight)
                    weight, size = weight + other_weight, size + other_size
                blocks.append((value, weight, size))
            values = [value for value, _, size in blocks for _ in range(size)]
            self._curve = dict(zip(self._rows, values, strict=True))
        return self._curve

    def _add(self, rows: int, value: float, variance: float) -> None:
        self._curve = None
        self._points[rows] = _Point(value, variance, self._num_seen)
        bisect.insort(self._rows, rows)

    def _set(self, point: _Point, value: float, variance: float) -> None:
        self._curve = None
        point.value, point.variance, point.num_seen = value, max(variance, _MIN_POINT_NOISE), self._num_seen

    def _now(self, point: _Point) -> float:
        return min(point.variance + _POINT_DRIFT * (self._num_seen - point.num_seen), _MAX_POINT_NOISE)

    def _around(self, num_rows: int) -> tuple[int, int]:
        """The points next to a number of rows, below (or at) and above; the same one at either end of the curve."""
        index = bisect.bisect(self._rows, num_rows)
        return self._rows[max(index - 1, 0)], self._rows[min(index, len(self._rows) - 1)]

    def _log_ms(self, num_rows: int) -> float:
        """Without the load: along a line between two points; beyond the points as the shape assumed goes on."""
        low, high = self._around(num_rows)
        curve = self._monotonic()
        if low < num_rows < high:
            share = (num_rows - low) / (high - low)
            return math.log(math.exp(curve[low]) * (1 - share) + math.exp(curve[high]) * share)
        return curve[low] + _shape(num_rows) - _shape(low)

    def _variance_at(self, num_rows: int) -> float:
        return min(
            self._now(self._points[rows]) + _NOISE_PER_DOUBLING * math.log2(num_rows / rows) ** 2
            for rows in self._around(num_rows)
        )


def _point_of(num_rows: int) -> int:
    return _ROWS[bisect.bisect(_ROWS, num_rows) - 1]


def _shape(num_rows: int) -> float:
    """Logarithm of the time of rows as it is taken to be before they are seen."""
    return math.log(1 + num_rows / _DOUBLING_ROWS)


_SHAPES = {rows: _shape(rows) for rows in _ROWS}
