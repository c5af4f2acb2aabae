"""How probable tokens are that are known: those of a prompt, and those that were chosen. From logits on the CPU.

Used by runners, for the rows of a pass whose next token is known, and by the LLM service's acceptance rule. Invariant: the same
logits give the same bits, whatever asks.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import log_prob_of, top_k_log_probs
from specgrove.loop.works import LogProbs
from specgrove.program.backend import PassOutput


def log_probs_of(logits: torch.Tensor, token_id: int, num_top: int) -> LogProbs:
    """Of a token, and of the ``num_top`` most probable ones; ``logits`` is float32 ``[vocab_size]``. Raises ``ValueError`` for NaN.

    Tokens that can't come are not among the most probable, so there may be fewer.
    """
    own = log_prob_of(logits, token_id)
    value = logits[token_id]
    num_before = int((logits > value).sum()) + int((logits[:token_id] == value).sum())
    if num_top == 0:
        return LogProbs(own, num_before + 1)
    values, ids = top_k_log_probs(logits[None], num_top)
    top = zip(ids[0].tolist(), values[0].tolist(), strict=True)
    return LogProbs(own, num_before + 1, tuple((token_id, value) for token_id, value in top if value > -math.inf))


def with_log_probs(rows: PassRows, output: PassOutput) -> PassOutput:
    """A pass's output with log-probabilities in place of the logits of the rows whose next token is known."""
    if not rows.known:
        return output
    # Without choices all asked rows have logits.
    places = [place for place, choice in enumerate(rows.choices) if choice is None or not output.choices]
    log_probs: list[LogProbs | None] = []
    others = []
    for row, place in enumerate(places):
        token = rows.known.get(place)
        if token is None:
            others.append(row)
            continue
        try:
            log_probs.append(log_probs_of(output.logits[row], token.token_id, token.num_top))
        except ValueError:
            log_probs.append(None)
    return replace(output, logits=output.logits[others], log_probs=log_probs)
