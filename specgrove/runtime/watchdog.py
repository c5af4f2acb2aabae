"""Notices that a thread does not come back from what it does: a kernel that hangs, a device that never answers. Owned by a step loop.

The thread says when it begins something and when it has ended; another thread looks at the clock. The limit is for one such
thing: a forward pass, which has a bounded number of rows, or one call. So it depends on the model, not on how much there is to do.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

_MAX_INTERVAL_S = 1.0


class Watchdog:
    """``on_hang`` is called once, with what is wrong, from the watching thread."""

    def __init__(self, timeout_s: float, clock_s: Callable[[], float], on_hang: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._clock_s = clock_s
        self._on_hang = on_hang
        self._begun_s: float | None = None
        self._is_over = threading.Event()

    def start(self, name: str) -> None:
        """Watches from a thread of its own, where there is a limit."""
        if self._timeout_s == math.inf:
            return
        threading.Thread(target=self._watch, name=name, daemon=True).start()

    def begin(self) -> None:
        """The watched thread begins something that must end in time."""
        self._begun_s = self._clock_s()

    def end(self) -> None:
        """It has ended."""
        self._begun_s = None

    def stop(self) -> None:
        """Nothing is watched any more."""
        self._is_over.set()

    def check(self) -> None:
        """Looks at the clock."""
        begun_s = self._begun_s
        if begun_s is not None and self._clock_s() - begun_s > self._timeout_s and not self._is_over.is_set():
            self._is_over.set()
            self._on_hang(f"a step has not ended in {self._timeout_s:g} s")

    def _watch(self) -> None:
        while not self._is_over.wait(min(_MAX_INTERVAL_S, self._timeout_s / 4)):
            self.check()
