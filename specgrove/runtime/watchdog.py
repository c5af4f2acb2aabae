"""Notices that a thread does not come back from what it does: a kernel that hangs, a device that never answers. Owned by a step loop.

The thread says when it begins something and when it has ended; another thread looks, each interval. The limit is for one such
thing: a forward pass, which has a bounded number of rows, or one call. So it depends on the model, not on how much there is to do.
Time is counted in looks: while the process was stopped, as by ``docker pause``, there are none.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

_MAX_INTERVAL_S = 1.0


class Watchdog:
    """``on_hang`` is called once, with what is wrong, from the watching thread."""

    def __init__(self, timeout_s: float, on_hang: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._num_looks = 0
        self._begun_at: int | None = None  # the number of looks before
        self._is_over = threading.Event()

    @property
    def interval_s(self) -> float:
        """From one look to the next."""
        return min(_MAX_INTERVAL_S, self._timeout_s / 4)

    def start(self, name: str) -> None:
        """Watches from a thread of its own, where there is a limit."""
        if self._timeout_s == math.inf:
            return
        threading.Thread(target=self._watch, name=name, daemon=True).start()

    def begin(self) -> None:
        """The watched thread begins something that must end in time."""
        self._begun_at = self._num_looks

    def end(self) -> None:
        """It has ended."""
        self._begun_at = None

    def stop(self) -> None:
        """Nothing is watched any more."""
        self._is_over.set()

    def look(self) -> None:
        """Whether what was begun takes too long. Called each interval."""
        self._num_looks += 1
        begun_at = self._begun_at
        # The first look may come right after the beginning.
        if begun_at is None or (self._num_looks - begun_at - 1) * self.interval_s <= self._timeout_s:
            return
        if not self._is_over.is_set():
            self._is_over.set()
            self._on_hang(f"a step has not ended in {self._timeout_s:g} s")

    def _watch(self) -> None:
        while not self._is_over.wait(self.interval_s):
            self.look()
