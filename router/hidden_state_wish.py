"""Whether the verifier shall tell a session's hidden states with its next steps. One per request, used by its tree policy.

Telling them takes time of the LLM service and of the router, so they are asked for only where something is drafted, or will be soon. An
SSM that reads them can't draft well before some have been told. Invariant: no draft is judged that was made with fewer.
"""

from __future__ import annotations

# Tokens whose hidden states are told before drafts are looked at: of a whole window the next tokens say most.
_NUM_TOLD_FIRST = 16


class HiddenStateWish:
    """Off at first; where no SSM reads hidden states nothing is ever missing."""

    def __init__(self, *, is_read: bool) -> None:
        self._is_read = is_read
        self._num_told = 0
        self.is_on = False
        """Whether they are to be told."""

    @property
    def num_missing(self) -> int:
        """Tokens whose hidden states are still to be told before anything is drafted."""
        return max(_NUM_TOLD_FIRST - self._num_told, 0) if self._is_read else 0

    def want(self) -> None:
        """Something is to be drafted, at once or as soon as nothing is missing."""
        self.is_on = True

    def drop(self) -> None:
        """Nothing will be drafted for a while. What was told till then is too old when something is."""
        self.is_on, self._num_told = False, 0

    def observe(self, num_tokens: int, *, reads_prompt: bool) -> None:
        """A step was made as wished: so many tokens came out, or the prompt was read, whose end is told at once."""
        if self.is_on:
            self._num_told += max(num_tokens, _NUM_TOLD_FIRST) if reads_prompt else num_tokens
