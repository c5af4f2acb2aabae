"""Earlier outputs that ``LookupSsm`` may draft from: a bounded number of tokens, in a file if there is one. Off unless asked for.

What is drafted from it can tell one user what another's output said: a response names which SSM drafted a token, and right guesses are
faster. So prompts are never in it: who asks for it agrees to that of outputs alone.
Invariant: no output depends on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from ssm_service.store_file import StoreFile
from ssm_service.token_index import SEPARATOR, TokenIndex

# What is kept of one closed session's output: its end.
MAX_NUM_KEPT_TOKENS = 2048


class Corpus:
    """Two halves: when the new one is full, it replaces the old one."""

    def __init__(self, max_num_tokens: int, path: Path | None = None) -> None:
        """``path``: read where it exists, written by ``save``. Raises ``ValueError`` for a file that is no corpus."""
        self._max_num_tokens = max_num_tokens
        self._new, self._old = TokenIndex(), TokenIndex()
        self._file = None if path is None else StoreFile(path, "lookup corpus")
        found = self._file.load({"token_ids": torch.int32}) if self._file is not None else None
        if found is not None:
            is_end = SEPARATOR.__eq__
            for end, text in itertools.groupby(found["token_ids"].flatten().tolist(), is_end):
                if not end:
                    self.add(list(text))

    @property
    def indexes(self) -> tuple[TokenIndex, TokenIndex]:
        """The newer texts, and the older ones."""
        return self._new, self._old

    @property
    def num_tokens(self) -> int:
        """Held, separators counted."""
        return len(self._new.token_ids) + len(self._old.token_ids)

    def add(self, token_ids: Sequence[int]) -> None:
        """A text; its end, if it is long."""
        half = self._max_num_tokens // 2
        kept = token_ids[-min(MAX_NUM_KEPT_TOKENS, half - 1) :]
        if len(self._new.token_ids) + len(kept) + 1 > half:
            self._new, self._old = TokenIndex(), self._new
        self._new.extend([*kept, SEPARATOR])

    def save(self) -> None:
        """To its file, if it has one. Raises ``OSError``."""
        if self._file is not None:
            texts = torch.tensor([*self._old.token_ids, *self._new.token_ids], dtype=torch.int32)
            self._file.save({"token_ids": texts})
