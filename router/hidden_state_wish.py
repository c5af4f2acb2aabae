"""Whether the verifier shall tell a session's hidden states with its next steps. One per request, used by its tree policy.

Telling them takes time of the LLM service and of the router, so they are asked for only where something is drafted, or will be soon. An
SSM that reads them can't draft well before some have been told. Invariant: no draft is judged that was made with fewer, but where the
LLM's prefix cache has the prompt: then its last rows alone are told.
"""

from __future__ import annotations

from collections.abc import Callable

# Tokens whose hidden states are told before drafts are looked at: of a whole window the last ones say most.
_NUM_TOLD_FIRST = 16
# Drafting that has stopped may go on soon, as where another session came and went: for so many tokens SSMs are kept up to date.
_NUM_TOLD_AFTER = 32


class HiddenStateWish:
    """Off at first; where no SSM reads hidden states nothing is ever missing."""

    def __init__(self, is_read: Callable[[], bool]) -> None:
        """``is_read``: whether an SSM that may be asked now reads them. One that is paused is not asked."""
        self._is_read = is_read
        self._num_told = 0
        self._num_to_tell = 0
        self.is_on = False
        """Whether they are to be told."""

    @property
    def num_missing(self) -> int:
        """Tokens whose hidden states are still to be told before anything is drafted."""
        return max(_NUM_TOLD_FIRST - self._num_told, 0) if self._is_read() else 0

    @property
    def is_of_use(self) -> bool:
        """Whether they are to be told to somebody."""
        return self.is_on and self._is_read()

    def want(self, *, is_drafting: bool) -> None:
        """Something is to be drafted, at once or as soon as nothing is missing: for the verifier, or only to see what it is worth."""
        self.is_on = True
        self._num_to_tell = _NUM_TOLD_AFTER if is_drafting else 0

    def rest(self) -> None:
        """Nothing is to be drafted. Once they are told no more, what was told till then is too old when something is."""
        if self._num_to_tell <= 0:
            self.is_on, self._num_told = False, 0

    def observe(self, num_tokens: int, *, reads_prompt: bool, is_told: bool) -> None:
        """A step was made: so many tokens came out, or the prompt was read, whose end is told at once. ``is_told``: as wished.

        What was told before a step that was not is too old: an SSM that comes again, as after a restart of its service, lacks that step's.
        """
        if self.is_on:
            num_told = max(num_tokens, _NUM_TOLD_FIRST) if reads_prompt else num_tokens
            self._num_told = self._num_told + num_told if is_told else 0
            self._num_to_tell -= num_tokens
