"""Which tokens a session has, and how often: what penalties count, kept as native code reads it. Used by sessions and the acceptance rule.

Invariant: a step's work is as large as its tokens are many; of what is behind them only memory is copied. An output may be as long as the
context is, and its penalties are looked at for each of its tokens while all other sessions wait.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

import torch


class TokenCounts:
    """Distinct tokens, in the order in which they came first."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._token_ids = array("q")
        self._counts = array("q")

    def __len__(self) -> int:
        return len(self._token_ids)

    def add(self, token_ids: Sequence[int]) -> None:
        """Counts them in. What is new is taken in without a step of the interpreter for each: a prompt may have very many."""
        counted = Counter(token_ids)
        new = [token_id for token_id in counted if token_id not in self._places]
        if len(new) == len(counted):
            self._counts.extend(counted.values())
        else:
            self._counts.extend([0] * len(new))
        self._places.update(zip(new, range(len(self._token_ids), len(self._counts)), strict=True))
        self._token_ids.extend(new)
        if len(new) < len(counted):
            for token_id, count in counted.items():
                self._counts[self._places[token_id]] += count

    def place_of(self, token_id: int) -> int | None:
        """Where a token is among them."""
        return self._places.get(token_id)

    def copied_to(self, token_ids: torch.Tensor, counts: torch.Tensor) -> None:
        """Into the first elements of int64 tensors of at least so many."""
        if self._token_ids:  # an empty array has no buffer
            token_ids[: len(self)] = torch.frombuffer(self._token_ids, dtype=torch.int64)
            counts[: len(self)] = torch.frombuffer(self._counts, dtype=torch.int64)


class CountsAhead:
    """Those of a session, and of at most ``max_num_more`` tokens that are chosen after what it has. The session's own stay as they are."""

    def __init__(self, counts: TokenCounts, max_num_more: int) -> None:
        self._before = counts
        self._num = len(counts)
        self._new_places: dict[int, int] = {}
        self._token_ids = torch.empty(self._num + max_num_more, dtype=torch.int64)
        self._counts = torch.empty_like(self._token_ids)
        counts.copied_to(self._token_ids, self._counts)

    @property
    def token_ids(self) -> torch.Tensor:
        """Distinct, int64 ``[n]``."""
        return self._token_ids[: self._num]

    @property
    def counts(self) -> torch.Tensor:
        """How often each has come, int64 ``[n]``."""
        return self._counts[: self._num]

    def add(self, token_id: int) -> None:
        """One more."""
        place = self._before.place_of(token_id)
        if place is None:
            place = self._new_places.setdefault(token_id, self._num)
        if place == self._num:
            self._token_ids[place] = token_id
            self._counts[place] = 0
            self._num += 1
        self._counts[place] += 1
