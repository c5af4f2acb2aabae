"""What all backends have in common: a program made ready to run, the caches that it reads and writes, and what a pass gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from specgrove.kernels.checks import check
from specgrove.kernels.rows import PassRows
from specgrove.loop.works import LogProbs
from specgrove.program.output_ops import Shortlist
from specgrove.program.program import Program


@dataclass(frozen=True, slots=True)
class KvCaches:
    """Keys and values of every layer, ``[num_slots, num_kv_heads, head_dim]`` each, all of one dtype and on the backend's device."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What ``Shortlist`` hands out: of each asked row, in order, the likeliest ids by falling logit, ties by rising id; on the CPU."""

    token_ids: torch.Tensor
    """int32 ``[num_asked, num_candidates]``."""
    logits: torch.Tensor
    """float32 ``[num_asked, num_candidates]`` (float64 from the reference)."""
    log_sum_exp: torch.Tensor
    """``[num_asked]``, of the candidates' logits and of all other ids' scores: ``logits - log_sum_exp[:, None]`` are log-probabilities."""

    @classmethod
    def at(cls, op: Shortlist, places: torch.Tensor, logits: torch.Tensor, log_sum_exp: torch.Tensor) -> Candidates:
        """Whose ids stand at these places of the op's, all on the CPU."""
        token_ids = places if op.token_ids is None else op.token_ids[places.long()]
        return cls(token_ids.int(), logits, log_sum_exp)


@dataclass(frozen=True, slots=True)
class PassOutput:
    """What a pass gives. Of the asked rows, in order: a choice or logits, as each was asked, or logits of all."""

    choices: Sequence[int]
    """Token ids, or one of the constants of ``specgrove.kernels.rows``; empty where all rows have logits."""
    logits: torch.Tensor
    """float32 ``[n, vocab_size]`` on the CPU, of the rows without a choice."""
    hidden: tuple[torch.Tensor, ...] = ()
    """What ``KeepHidden`` handed out, by place: float32, of all rows or behind ``TakeRows`` of the asked ones, on the backend's device.

    The caller's own.
    """
    log_probs: Sequence[LogProbs | None] = ()
    """Of rows whose next token is known a runner gives these instead of logits, in order; ``None`` where those hold NaN."""
    candidates: Candidates | None = None
    """What ``Shortlist`` handed out; ``None`` where the program has none."""


class Executable(Protocol):
    """A program that is ready to run. One call at a time runs."""

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """One pass; the rows' slots are written. ``hidden``: what ``Input`` takes, float32 ``[num_rows, width]``.

        Raises ``ValueError`` for a token id, position, slot, row or input that is not there, before anything is written (backends on a GPU
        check what can be checked without waiting for it). A pass that asks nothing of any row ends at ``TakeRows``; what is handed out
        behind it has no rows then.
        """
        ...


def check_input(
    program: Program, num_rows: int, hidden: torch.Tensor | None, dtype: torch.dtype = torch.float32
) -> None:
    """Raises ``ValueError`` unless ``hidden`` is what the program's ``Input``, if it has one, can take."""
    if (width := program.input_width) is None:
        return
    if hidden is None:
        raise ValueError("this program takes hidden states from outside")
    check(hidden, "hidden", dtype, num_rows, width)
