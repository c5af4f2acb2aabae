"""Where the last tokens of a text occurred before, and what followed. Used by ``LookupSsm``, for sessions and for its corpus."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence

MIN_MATCH_LEN = 2
MAX_MATCH_LEN = 5
SEPARATOR = -1
"""Between the texts of a corpus; no token id."""
# Earlier occurrences of the last two tokens that are looked at, latest first: bounds the time of a draft.
_MAX_NUM_OCCURRENCES = 64


class TokenIndex:
    """Where pairs of tokens end in a growing list of tokens: O(1) per token. Longer matches are found by looking back."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        # Of each pair the place after its latest occurrence; of each place the one before it with the same pair, 0 for none. Lists of
        # places would take two thirds more memory: most pairs of a text occur once.
        self._latest: dict[int, int] = {}
        self._before = array("i", [0])

    def extend(self, token_ids: Sequence[int]) -> None:
        """Adds tokens at the end."""
        previous = self.token_ids[-1] if self.token_ids else SEPARATOR
        for end, token_id in enumerate(token_ids, start=len(self.token_ids) + 1):
            pair = previous << 32 | token_id
            self._before.append(self._latest.get(pair, 0))
            self._latest[pair] = end
            previous = token_id
        self.token_ids.extend(token_ids)

    def _occurrences(self, pair: int) -> Iterator[int]:
        """The places after it, latest first."""
        end = self._latest.get(pair, 0)
        while end:
            yield end
            end = self._before[end]

    def matches(self, text: list[int], min_len: int) -> Iterator[tuple[int, int]]:
        """(match length, place after it) of earlier occurrences of the text's last tokens, latest first."""
        longest = min(MAX_MATCH_LEN, len(text))
        for end in itertools.islice(self._occurrences(text[-2] << 32 | text[-1]), _MAX_NUM_OCCURRENCES):
            if end == len(self.token_ids) or self.token_ids[end] == SEPARATOR:
                continue
            match_len = MIN_MATCH_LEN
            while (
                match_len < longest
                and match_len < end
                and self.token_ids[end - match_len - 1] == text[len(text) - match_len - 1]
            ):
                match_len += 1
            if match_len >= min_len:
                min_len = match_len
                yield match_len, end

    def following(self, end: int, max_len: int, *, repeats: bool) -> list[int]:
        """The tokens from a place on. With ``repeats``, a text that ends within them goes on with its own continuation."""
        found = self.token_ids[end : end + max_len]
        if SEPARATOR in found:
            return found[: found.index(SEPARATOR)]
        if repeats:
            period = len(found)
            found.extend(found[i % period] for i in range(period, max_len))
        return found
