"""Tokens that may be spent in a time: a bucket that fills evenly. Used by ``key_limits``; pure, the time is told.

Invariant: over any time the tokens spent are at most those that came in it, one minute's worth, and what was under way when it ran
empty: an output that has begun is not cut off, and what it takes too much is paid by those that come after it.
"""

from __future__ import annotations

_MINUTE_S = 60.0


class TokenBucket:
    """Times are in seconds, of any clock that does not go back."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        """Full: it holds a minute's worth."""
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._now_s = now_s

    def level(self, now_s: float) -> float:
        """Tokens in it. Below 0 where more was spent than there was."""
        filled = self._level + (now_s - self._now_s) * self.per_minute / _MINUTE_S
        self._level, self._now_s = min(filled, float(self.per_minute)), now_s
        return self._level

    def wait_s(self, num_tokens: int, now_s: float) -> float:
        """Time until it holds so many, or is full. 0: now."""
        missing = min(num_tokens, self.per_minute) - self.level(now_s)
        return max(missing, 0.0) * _MINUTE_S / self.per_minute

    def spend(self, num_tokens: int, now_s: float) -> None:
        """Takes tokens out, whether they are there or not; negative: puts them back."""
        self.level(now_s)
        self._level = min(self._level - num_tokens, float(self.per_minute))

    def resize(self, per_minute: int, now_s: float) -> None:
        """What is in it stays, as far as it has room."""
        self.level(now_s)
        self.per_minute = per_minute
        self.level(now_s)
