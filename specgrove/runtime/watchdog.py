"""Notices that a thread does not come back from what it does: a kernel that hangs, a device that never answers. Owned by a step loop.

The thread says when it begins something and when it has ended; another thread looks at the clock. The limit is for one such
thing: a forward pass, which has a bounded number of rows, or one call. So it depends on the model, not on how much there is to do.
The time for which the process was stopped, as by ``docker pause``, does not count.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

_MAX_INTERVAL_S = 1.0
# A busy machine may keep the watching thread waiting for so many intervals.
_MAX_INTERVALS = 4.0


class Watchdog:
    """``on_hang`` is called once, with what is wrong, from the watching thread."""

    def __init__(self, timeout_s: float, clock_s: Callable[[], float], on_hang: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._clock_s = clock_s
        self._on_hang = on_hang
        self._interval_s = min(_MAX_INTERVAL_S, timeout_s / 4)
        self._begun_s: float | None = None
        self._looked_s = clock_s()
        self._stopped_s = 0.0
        """How long the process was."""
        self._is_over = threading.Event()

    def start(self, name: str) -> None:
        """Watches from a thread of its own, where there is a limit."""
        if self._timeout_s == math.inf:
            return
        threading.Thread(target=self._watch, name=name, daemon=True).start()

    def begin(self) -> None:
        """The watched thread begins something that must end in time."""
        self._begun_s = self._now_s()

    def end(self) -> None:
        """It has ended."""
        self._begun_s = None

    def stop(self) -> None:
        """Nothing is watched any more."""
        self._is_over.set()

    def look(self) -> None:
        """Looks at the clock. Called each interval: where far more time has passed, nothing in this process had any."""
        now_s = self._clock_s()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        if passed_s > _MAX_INTERVALS * self._interval_s:
            self._stopped_s += passed_s - self._interval_s
        self.check()

    def check(self) -> None:
        """Whether what was begun takes too long."""
        begun_s = self._begun_s
        if begun_s is not None and self._now_s() - begun_s > self._timeout_s and not self._is_over.is_set():
            self._is_over.set()
            self._on_hang(f"a step has not ended in {self._timeout_s:g} s")

    def _now_s(self) -> float:
        """Of a clock that stood still while the process was stopped."""
        return self._clock_s() - self._stopped_s

    def _watch(self) -> None:
        self._looked_s = self._clock_s()
        while not self._is_over.wait(self._interval_s):
            self.look()
