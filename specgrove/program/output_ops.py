"""The ops at the end of a pass: from all rows to those that are asked for something, and what is handed out of them.

As those in ``ops``, which has the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from specgrove.program.linears import Linear
from specgrove.program.op import Changed, Held, OnHost, Op, Read, Widths, check_shape


@dataclass(frozen=True, slots=True)
class TakeRows(Op):
    """From here on the rows are those that the pass asks for something, in these buffers; what the others hold is undefined."""

    is_of_all_rows: ClassVar[bool] = True
    takes_rows: ClassVar[bool] = True
    buffers: tuple[Changed, ...]


@dataclass(frozen=True, slots=True)
class KeepHidden(Op):
    """Hands out the hidden states ``x`` as output number ``place``, float32 ``[rows, width]``."""

    x: Read
    place: int
    width: int

    def leaves(self, held: Held) -> Widths:
        held.check(self.x, self.width)
        return {}


@dataclass(frozen=True, slots=True)
class Choose(Op):
    """Hands out, for each row, the choice that follows or the logits ``x @ vocab.T``, as the pass asks.

    With several ranks ``vocab`` holds this rank's columns: the ranks' logits are put side by side, and there are no choices.
    """

    x: Read
    vocab: Linear
    widths: OnHost[tuple[int, ...]]
    """Columns of every rank."""
    soft_cap: float | None = None
    """Logits become ``soft_cap * tanh(logit / soft_cap)`` before anything is chosen (arXiv 2408.00118)."""

    def leaves(self, held: Held) -> Widths:
        held.check_rows_taken()
        held.check_inputs(self.x, self.vocab.in_features)
        return {}


@dataclass(frozen=True, slots=True)
class Shortlist(Op):
    """Hands out, for each row, the ``num_candidates`` ids with the largest scores ``scored @ scores.T``, ties to the lower id.

    Their logits are ``x @ table[ids].T``, or without a table the scores. See ``Candidates``.
    """

    x: Read
    scored: Read
    """What the scores are made from: ``x``, or what a low-rank head makes of it."""
    scores: Linear
    table: torch.Tensor | None  # [num_ids, size of x]
    num_candidates: int
    token_ids: OnHost[torch.Tensor | None] = None  # int64 [num_ids], rising, on the CPU; None: they are the places
    soft_cap: float | None = None
    """As for ``Choose``, of logits and scores."""

    def leaves(self, held: Held) -> Widths:
        held.check_rows_taken()
        held.check_inputs(self.scored, self.scores.in_features)
        num_ids = self.scores.out_features
        if not 1 <= self.num_candidates <= num_ids:
            raise ValueError(f"{self.num_candidates} candidates can't be chosen of {num_ids} ids")
        if self.table is not None:
            check_shape(self.table, "table", num_ids, held[self.x])
        elif self.scored != self.x:
            raise ValueError("scores of another buffer need a table of the rows that they stand for")
        check_shape(self.token_ids, "token_ids", num_ids)
        return {}
