"""When an idle engine looks whether every KV slot has one owner: now and then, where passes have run since the last time."""

from __future__ import annotations

from collections.abc import Callable

_INTERVAL_S = 10.0


class IdleCheck:
    """``num_passes`` are those of the engine so far."""

    def __init__(self, num_passes: int, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._num_passes, self._checked_s = num_passes, clock_s()

    def is_due(self, num_passes: int) -> bool:
        """True counts as checked."""
        now_s = self._clock_s()
        if num_passes == self._num_passes or now_s - self._checked_s < _INTERVAL_S:
            return False
        self._num_passes, self._checked_s = num_passes, now_s
        return True
