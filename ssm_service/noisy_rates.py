"""Hit rates of SSMs without weights as probabilities in a sampled session, where the verifier's noise is known.

A token that is right in a share ``rate`` of cases is the choice the likelier, the larger its noise is: its score is ``log(rate) + noise``,
beside ``log(1 - rate)`` with the mean noise for all others. Why noise may be shared stands in ``specgrove.kernels.candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.kernels.candidates import CandidateRow, best_candidates

# In the place of a candidate that a row lacks: a rate of nothing, though a number still, since rates are calculated with.
_NONE = (-1, -1e4)


class NoisyRates:
    """Rows are collected, then computed in one call."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows: list[CandidateRow] = []
        self._candidates: list[Sequence[tuple[int, float]]] = []

    def add(self, position: int, candidates: Sequence[tuple[int, float]]) -> int:
        """Tokens that may come at a position, with the logarithms of their rates, which sum to 1 or less. Which row it is."""
        # Rates are of choices at the session's temperature already.
        self._rows.append(CandidateRow(position, temperature=1.0, seed=self._seed))
        self._candidates.append(sorted(candidates, key=lambda candidate: -candidate[1]))
        return len(self._rows) - 1

    def log_probs(self) -> list[dict[int, float]]:
        """Of each row's tokens."""
        width = max(map(len, self._candidates))
        padded = [(*row, *[_NONE] * (width - len(row))) for row in self._candidates]
        token_ids = torch.tensor([[token_id for token_id, _ in row] for row in padded])
        rates = torch.tensor([[log_rate for _, log_rate in row] for row in padded], dtype=torch.float32)
        values, ids = best_candidates(token_ids, rates, torch.zeros(len(padded)), self._rows, width, noise_weight=1.0)
        return [dict(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
