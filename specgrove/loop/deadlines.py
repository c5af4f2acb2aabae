"""Deadlines as works carry them: the time that is left."""

from __future__ import annotations

import time

_MAX_TIMEOUT_MS = 2**32 - 1  # what the wire carries; 49 days


def remaining_ms(deadline_s: float | None) -> int | None:
    """Milliseconds until a moment of ``time.monotonic``'s clock, at least 1: whoever waits notices by itself that it has passed."""
    if deadline_s is None:
        return None
    return min(max(int((deadline_s - time.monotonic()) * 1e3), 1), _MAX_TIMEOUT_MS)
