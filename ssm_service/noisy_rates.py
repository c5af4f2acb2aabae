"""Hit rates of SSMs without weights as probabilities in a sampled session, where the verifier's noise is known.

A token that is right in a share ``rate`` of cases is the choice the likelier, the larger its noise is: its score is ``log(rate) + noise``,
beside ``log(1 - rate)`` with the mean noise for all others. Why noise may be shared stands in ``specgrove.kernels.candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.kernels.candidates import CandidateRow, best_candidates


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
        self._candidates.append(candidates)
        return len(self._rows) - 1

    def log_probs(self) -> list[dict[int, float]]:
        """Of each row's tokens, most probable first."""
        # One call for all rows of one width: a candidate that isn't there would have no finite score.
        rows_of_width: dict[int, list[int]] = {}
        for row, candidates in enumerate(self._candidates):
            rows_of_width.setdefault(len(candidates), []).append(row)
        found: dict[int, dict[int, float]] = {}
        for width, rows in rows_of_width.items():
            found |= zip(rows, self._of_width(width, rows), strict=True)
        return [found[row] for row in range(len(self._rows))]

    def _of_width(self, width: int, rows: Sequence[int]) -> list[dict[int, float]]:
        # Best first, as candidates must be: continuations come as they were found.
        candidates = [sorted(self._candidates[row], key=lambda pair: -pair[1]) for row in rows]
        token_ids = torch.tensor([[token_id for token_id, _ in row] for row in candidates])
        rates = torch.tensor([[log_rate for _, log_rate in row] for row in candidates], dtype=torch.float32)
        own = [self._rows[row] for row in rows]
        values, ids = best_candidates(token_ids, rates, torch.zeros(len(rows)), own, width, noise_weight=1.0)
        return [dict(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
