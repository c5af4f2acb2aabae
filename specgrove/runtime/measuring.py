"""Which sizes of a forward pass to time, and when to stop: small ones first, in turns, within a budget. The services run the passes.

A pass on a large model takes long, and a service that has just started is about to be used: sizes that don't fit the budget are
left out, and whoever asks for the times learns those from real passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

_BUDGET_MS = 2000.0
_NUM_TURNS = 3


class PassMeasurement:
    """One measurement, from the first size to the last turn."""

    def __init__(self, nums_rows: Sequence[int], budget_ms: float = _BUDGET_MS, num_turns: int = _NUM_TURNS) -> None:
        """``nums_rows`` ascend."""
        self._budget_ms = budget_ms
        self._least_ms: dict[int, float] = {}
        self._upcoming = list(nums_rows) * num_turns

    def next(self) -> int | None:
        """The number of rows to time now; ``None`` at the end."""
        while self._upcoming:
            num_rows = self._upcoming.pop(0)
            if self._expected_ms(num_rows) <= self._budget_ms:
                return num_rows
        return None

    def add(self, num_rows: int, ms: float) -> None:
        """A pass took so long."""
        self._budget_ms -= ms
        self._least_ms[num_rows] = min(ms, self._least_ms.get(num_rows, ms))

    @property
    def times(self) -> list[tuple[int, float]]:
        """(rows, the least ms of any turn), ascending: what else ran on the machine only ever adds."""
        return sorted(self._least_ms.items())

    def _expected_ms(self, num_rows: int) -> float:
        """As before, or at most in proportion to the next smaller size."""
        smaller = [rows for rows in self._least_ms if rows <= num_rows]
        return self._least_ms[max(smaller)] * num_rows / max(smaller) if smaller else 0.0


async def measured(
    measurement: PassMeasurement, run: Callable[[int], Awaitable[float | None]], is_wanted: Callable[[], bool]
) -> bool:
    """Runs a measurement to its end, or until it is not ``is_wanted``: checked before every pass, and told by the result.

    ``run`` times a pass; ``None`` where there is no room for so many rows.
    """
    while is_wanted():
        num_rows = measurement.next()
        if num_rows is None:
            return True
        ms = await run(num_rows)
        if ms is not None:
            measurement.add(num_rows, ms)
    return False
