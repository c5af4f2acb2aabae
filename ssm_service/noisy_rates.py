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
        if not self._rows:
            return []
        width = max(map(len, self._candidates))
        token_ids = torch.full((len(self._rows), width), -1)
        rates = torch.full((len(self._rows), width), -torch.inf)
        for row, given in enumerate(self._candidates):
            # Best first, as candidates must be: continuations come as they were found.
            candidates = sorted(given, key=lambda pair: -pair[1])
            token_ids[row, : len(given)] = torch.tensor([token_id for token_id, _ in candidates])
            rates[row, : len(given)] = torch.tensor([log_rate for _, log_rate in candidates])
        found = best_candidates(token_ids, rates, torch.zeros(len(self._rows)), self._rows, width, noise_weight=1.0)
        return [dict(pairs) for pairs in found]
