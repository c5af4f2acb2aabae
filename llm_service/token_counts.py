"""Which tokens a session has, and how often: what penalties count, kept as native code reads it. Used by sessions and the acceptance rule.

Invariant: a step goes through its own tokens; of what is behind them only memory is copied. Prompt and output may be as long as the context
is, and penalties are looked at for each token while all other sessions wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# So many tokens are counted sooner one by one.
_FEW = 16


class TokenCounts:
    """Distinct tokens, and how often each has come."""

    def __init__(self) -> None:
        self._num = 0
        # With room for more: ids, and counts that are 0 where nothing is yet; by token id the place there, or -1.
        self._token_ids = torch.zeros(0, dtype=torch.int64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._places = torch.full((0,), -1, dtype=torch.int32)

    def __len__(self) -> int:
        return self._num

    def add(self, token_ids: Sequence[int]) -> None:
        """Counts them in."""
        if len(token_ids) > _FEW:
            self._add_many(token_ids)
            return
        for token_id in token_ids:
            place = self.place_of(token_id)
            if place is None:
                place, self._num = self._num, self._num + 1
                self._places = _with_room(self._places, token_id + 1, -1)
                self._make_room()
                self._places[token_id] = place
                self._token_ids[place] = token_id
            self._counts[place] += 1

    def _add_many(self, token_ids: Sequence[int]) -> None:
        ids, counts = torch.unique(torch.tensor(token_ids, dtype=torch.int64), return_counts=True)
        self._places = _with_room(self._places, int(ids[-1]) + 1, -1)
        places = self._places[ids].long()
        is_new = places < 0
        num_before, self._num = self._num, self._num + int(is_new.sum())
        places[is_new] = torch.arange(num_before, self._num)
        self._places[ids] = places.int()
        self._make_room()
        self._token_ids[places] = ids
        self._counts[places] += counts

    def _make_room(self) -> None:
        self._token_ids = _with_room(self._token_ids, self._num, 0)
        self._counts = _with_room(self._counts, self._num, 0)

    def place_of(self, token_id: int) -> int | None:
        """Where a token is among them."""
        place = int(self._places[token_id]) if token_id < len(self._places) else -1
        return None if place < 0 else place

    def copied(self, num_more: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and counts, int64 ``[n + num_more]``; the last ones are 0."""
        room = torch.zeros((2, self._num + num_more), dtype=torch.int64)
        room[0, : self._num] = self._token_ids[: self._num]
        room[1, : self._num] = self._counts[: self._num]
        return room[0], room[1]


class CountsAhead:
    """Those of a session, and of at most ``max_num_more`` tokens that are chosen after what it has. The session's own stay as they are."""

    def __init__(self, counts: TokenCounts, max_num_more: int) -> None:
        self._before = counts
        self._num = len(counts)
        self._new_places: dict[int, int] = {}
        self._token_ids, self._counts = counts.copied(max_num_more)

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
            self._num += 1
        self._counts[place] += 1


def _with_room(values: torch.Tensor, num: int, filling: int) -> torch.Tensor:
    """The same values, and at least ``num`` places: twice as many as before where these did not suffice."""
    if num <= len(values):
        return values
    larger = torch.full((max(num, 2 * len(values)),), filling, dtype=values.dtype)
    larger[: len(values)] = values
    return larger
