"""An SSM without weights: what the LLM last thought likely after each token (Token Recycling, arXiv 2408.08696).

Every verified row tells the LLM's most probable next tokens, rejected rows too. A table keeps the last of them by the row's token, and
trees are grown from it, level by level, with the hit rate of each rank as probability. The table is bounded, one for all sessions, and in a
file if there is one. So it can tell one user what another's output said: it is off unless asked for. Invariant: no output depends on it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, RowTopK
from specgrove.loop.works import TreeShape
from ssm_service.draft_tree import ROOT, Beam, DraftTree
from ssm_service.noisy_rates import NoisyRates
from ssm_service.store_file import StoreFile

NUM_FOLLOWING = 8
"""Tokens kept after each token."""
MAX_NUM_ENTRIES = 65_536
"""Tokens that something is kept of: those that were in no row for longest go first. About 200 bytes each."""
_PRIOR_RATES = (0.35, 0.11, 0.06, 0.04, 0.03, 0.02, 0.015, 0.015)
_PRIOR_WEIGHT = 50.0
_RULE = Beam(4)


class RecycleSsm:
    """Drafts from the table; owned by the pool's engine."""

    def __init__(self, name: str, path: Path | None = None, max_num_entries: int = MAX_NUM_ENTRIES) -> None:
        """``path``: read where it exists, written by ``save``. Raises ``ValueError`` for a file that is no such table."""
        self.name = name
        self._max_num_entries = max_num_entries
        self._table: dict[int, array[int]] = {}  # the least recently seen token first
        self._num_hits = [rate * _PRIOR_WEIGHT for rate in _PRIOR_RATES]
        self._num_tries = _PRIOR_WEIGHT
        self._num_counted: dict[str, int] = {}  # committed tokens of each session
        self._file = None if path is None else StoreFile(path, "recycle table")
        if self._file is not None:
            self._load(self._file)

    @property
    def num_entries(self) -> int:
        """Tokens that something is kept of."""
        return len(self._table)

    def draft(
        self,
        session_id: str,
        token_ids: list[int],
        shape: TreeShape,
        sampling: DraftSampling | None = None,
        rows: Sequence[RowTopK] = (),
    ) -> TokenTree:
        """The tree below all committed tokens, after ``rows`` that were verified since the last one have been taken in."""
        self._count(session_id, token_ids)
        for row in rows:
            self._take(row.token_id, [token_id for token_id, _ in row.top[:NUM_FOLLOWING]])
        tree = DraftTree(shape, _RULE)
        log_rates = [math.log(hits / self._num_tries) for hits in self._num_hits]
        expanded = [ROOT]
        while expanded and tree.num_children():
            parents = [token_ids[-1] if node == ROOT else tree.token_ids[node] for node in expanded]
            following = [list(zip(self._table.get(parent, ()), log_rates, strict=False)) for parent in parents]
            if not any(following):
                break
            if sampling is not None:
                following = _with_noise(following, len(token_ids) + tree.depth, sampling.seed)
            num_children = tree.num_children()
            expanded = tree.grow(expanded, [pairs[:num_children] for pairs in following])
        return tree.best(token_ids[-1])

    def _count(self, session_id: str, token_ids: list[int]) -> None:
        """Where the tokens committed since the last draft stood in the table."""
        for place in range(self._num_counted.get(session_id, len(token_ids)), len(token_ids)):
            following = self._table.get(token_ids[place - 1])
            if following is None:
                continue
            self._num_tries += 1
            if token_ids[place] in following:
                self._num_hits[following.index(token_ids[place])] += 1
        self._num_counted[session_id] = len(token_ids)

    def _take(self, token_id: int, following: Sequence[int]) -> None:
        if not following:
            return
        self._table.pop(token_id, None)  # what is set anew comes last
        self._table[token_id] = array("i", following)
        if len(self._table) > self._max_num_entries:
            del self._table[next(iter(self._table))]

    def drop(self, session_id: str) -> None:
        """Forgets a session; what was learnt from it stays."""
        self._num_counted.pop(session_id, None)

    def save(self) -> None:
        """To its file, if it has one. Raises ``OSError``."""
        if self._file is None:
            return
        following = torch.full((len(self._table), NUM_FOLLOWING), -1, dtype=torch.int32)
        for row, found in zip(following, self._table.values(), strict=True):
            row[: len(found)] = torch.tensor(found, dtype=torch.int32)
        counts = torch.tensor([*self._num_hits, self._num_tries], dtype=torch.float64)
        token_ids = torch.tensor(list(self._table), dtype=torch.int32)
        self._file.save({"token_ids": token_ids, "following": following, "counts": counts})

    def _load(self, file: StoreFile) -> None:
        found = file.load({"token_ids": torch.int32, "following": torch.int32, "counts": torch.float64})
        if found is None:
            return
        token_ids, following, counts = found["token_ids"], found["following"], found["counts"]
        shapes = [list(tensor.shape) for tensor in (token_ids, following, counts)]
        num = token_ids.numel()
        if shapes != [[num], [num, NUM_FOLLOWING], [NUM_FOLLOWING + 1]]:
            raise ValueError(f"{file.path}: a recycle table doesn't have tensors of the shapes {shapes}")
        if not (counts > 0).all() or not (counts <= counts[-1]).all() or counts.isinf().any():
            raise ValueError(
                f"{file.path}: a recycle table has numbers above 0 of hits, and at least as many tries, not {counts.tolist()}"
            )
        *self._num_hits, self._num_tries = counts.tolist()
        for token_id, row in zip(token_ids.tolist(), following.tolist(), strict=True):
            self._take(token_id, [following_id for following_id in row if following_id >= 0])


def _with_noise(
    following: Sequence[Sequence[tuple[int, float]]], position: int, seed: int
) -> list[list[tuple[int, float]]]:
    """Each row's tokens with their log-probabilities when the noise is known, most probable first."""
    rates = NoisyRates(seed)
    rows = [rates.add(position, row) if row else None for row in following]
    found = rates.log_probs()
    return [[] if row is None else [pair for pair in found[row].items() if pair[0] >= 0] for row in rows]
