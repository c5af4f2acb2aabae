"""What may be spent on finding out whether drafting, or an SSM, would pay: a small share of all decoding, and a sum at the start, when
nothing was seen yet. Owned by ``Measurements``.

Invariant: what was spent, beyond what the steps would have taken anyway, stays about within the share and that sum; a single dear trial,
which may be more, puts no end to it for long.
"""

from __future__ import annotations

import weakref

# Once per router, while it has made few steps: so many steps' worth. What was measured at the start, while services came up beside each
# other, may be wrong by half, and the share alone would earn one trial in a hundred steps.
_NUM_FIRST_STEPS_SPENT = 6.0
_NUM_STEPS_NEW = 512.0
# One request at a time spends it, for so many steps of all requests at most.
_NUM_STEPS_HELD = 64.0
# Of the time of decoding what may be spent, and how many steps' worth may be saved up.
_EXPLORED_SHARE = 0.003
_MAX_NUM_STEPS_SAVED = 5.0
# So much decoding earns back whatever one trial took: for a long prompt, which drafters read first, that may be a second.
_MAX_MS_IN_DEBT = 30_000.0


class Exploration:
    """The time that may be spent on finding out: given once, then earned by decoding; overdrawn by one trial at most, and not for long."""

    def __init__(self) -> None:
        self._num_first_steps_left = _NUM_FIRST_STEPS_SPENT
        self._num_steps_new = _NUM_STEPS_NEW
        self._step_ms: float | None = None  # the least that one took; None: none was seen
        self._early_ms = 0.0  # spent before one was
        self._holder: weakref.ref[object] | None = None
        self._num_steps_held = 0.0
        self._saved_ms = 0.0

    @property
    def is_new(self) -> bool:
        """Whether there is something left of the sum at the start."""
        return self._num_steps_new > 0 and self._num_first_steps_left > 0

    @property
    def has_saved(self) -> bool:
        """Whether enough was earned for another trial."""
        return self._saved_ms > 0

    @property
    def is_affordable(self) -> bool:
        """Whether a trial may be begun."""
        return self.is_new or self.has_saved

    def gives(self, request: object) -> bool:
        """Whether a request may spend of the sum at the start: one at a time. Of those that come at once all would try the same."""
        holder = None if self._holder is None else self._holder()
        return self.is_new and (holder is None or holder is request)

    def give(self, request: object) -> None:
        """It begins to, and no other one does before it has ended, or some steps were made: requests that end may be kept in memory."""
        self._holder, self._num_steps_held = weakref.ref(request), _NUM_STEPS_HELD

    def earn(self, decoding_ms: float, step_ms: float) -> None:
        """So much was spent on decoding, in steps of so long."""
        num_steps = decoding_ms / max(step_ms, 1e-3)
        if self._step_ms is None:
            self._step_ms = step_ms
            self.spend(self._early_ms)
        self._step_ms = min(self._step_ms, step_ms)
        self._num_steps_new -= num_steps
        self._num_steps_held -= num_steps
        if self._num_steps_held <= 0:
            self._holder = None
        self._saved_ms = min(self._saved_ms + _EXPLORED_SHARE * decoding_ms, _MAX_NUM_STEPS_SAVED * step_ms)

    def spend(self, ms: float) -> None:
        """A trial took this, beyond what the steps would have taken without it."""
        ms = max(ms, 0.0)
        if self._step_ms is None:
            self._early_ms += ms
            return
        if self.is_new:
            given_ms = min(ms, self._num_first_steps_left * self._step_ms)
            self._num_first_steps_left -= given_ms / max(self._step_ms, 1e-3)
            ms -= given_ms
        self._saved_ms = max(self._saved_ms - ms, -_EXPLORED_SHARE * _MAX_MS_IN_DEBT)
