"""What may be spent on finding out whether drafting, or an SSM, would pay: a small share of all decoding. Owned by ``Measurements``.

Invariant: what was spent, beyond what the steps would have taken anyway, stays about within the share; a single dear trial, which may be
more, puts no end to it for long.
"""

from __future__ import annotations

# Of the time of decoding what may be spent, and how many steps' worth may be saved up.
_EXPLORED_SHARE = 0.003
_MAX_NUM_STEPS_SAVED = 5.0
# So much decoding earns back whatever one trial took: for a long prompt, which drafters read first, that may be a second.
_MAX_MS_IN_DEBT = 30_000.0


class Exploration:
    """The time that may be spent on finding out: earned by decoding, overdrawn by one trial at most, and not for long."""

    def __init__(self) -> None:
        self._saved_ms = 0.0

    @property
    def is_affordable(self) -> bool:
        """Whether a trial may be begun."""
        return self._saved_ms > 0

    def earn(self, decoding_ms: float, step_ms: float) -> None:
        """So much was spent on decoding, in steps of so long."""
        self._saved_ms = min(self._saved_ms + _EXPLORED_SHARE * decoding_ms, _MAX_NUM_STEPS_SAVED * step_ms)

    def spend(self, ms: float) -> None:
        """A trial took this, beyond what the steps would have taken without it."""
        self._saved_ms = max(self._saved_ms - max(ms, 0.0), -_EXPLORED_SHARE * _MAX_MS_IN_DEBT)
