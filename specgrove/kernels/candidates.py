"""Which of its candidates a drafter proposes: ranked with the verifier's own noise, and how probable each is. For all SSMs with scores.

At temperature T the verifier chooses ``argmax(logits / T + gumbel(seed, position, token_id))``. That noise is no secret: it is a
function of what a request gives (``gumbel_noise``). So a drafter adds the same to its own logits, and ranks by what the verifier will see.

This is exact only because a token is accepted if, and only if, it equals the verifier's choice. That choice is settled by logits, seed
and position, whatever is proposed; a better guess of it changes nothing else. Under rejection sampling it would be biased: there a
proposal must be an independent sample of the drafter's distribution, and one that shares the noise of the verifier's own sample is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """How the verifier will choose the token after a row, and what the drafter's scores are divided by.

    ``position`` is that token's place in the sequence: the committed length below the root, one more with each level. Top-k (0: off)
    and top-p (1: off) are applied to the drafter's logits, as a guess of what they leave of the verifier's.
    """

    position: int
    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    scale: float = 1.0
    native: _native.CandidateRow = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        native = _native.CandidateRow(self.position, self.seed, self.temperature, self.top_k, self.top_p, self.scale)
        object.__setattr__(self, "native", native)


def best_candidates(
    token_ids: torch.Tensor,
    logits: torch.Tensor,
    log_sum_exp: torch.Tensor,
    rows: Sequence[CandidateRow],
    k: int,
    noise_weight: float,
) -> list[list[tuple[int, float]]]:
    """Of each row the k most probable choices of the verifier, or as many as there are, best first: ids with their log-probabilities.

    ``token_ids`` int32 or int64 ``[num_rows, num_candidates]`` are the LLM's; one below 0 is never proposed, but takes its share of the
    probability. ``logits`` float32 ``[num_rows, num_candidates]`` fall within each row; ``log_sum_exp`` float32 ``[num_rows]`` is of the
    whole vocabulary. A row that holds no numbers has none.

    A score is ``(noise_weight * logit + temperature * noise) / scale``, or ``logit / scale`` where the choice is greedy or ``noise_weight``
    is 0. A log-probability is that of softmax over the scores, in which other tokens than the candidates are counted. No tensors come out:
    between passes each torch call takes tens of microseconds.
    """
    num_rows, num_candidates = logits.shape
    check(logits, "logits", torch.float32, num_rows, num_candidates)
    check(log_sum_exp, "log_sum_exp", torch.float32, num_rows)
    are_short = token_ids.dtype == torch.int32
    check(token_ids, "token_ids", torch.int32 if are_short else torch.int64, num_rows, num_candidates)
    if len(rows) != num_rows:
        raise ValueError(f"{num_rows} rows of logits need as many CandidateRows, got {len(rows)}")
    if (num_rows and num_candidates < 1) or k < 1:
        raise ValueError(f"there must be a candidate and a wanted one, got {num_candidates} and k = {k}")
    return _native.best_candidates(
        token_ids.data_ptr(),
        are_short,
        logits.data_ptr(),
        num_candidates,
        log_sum_exp.data_ptr(),
        [row.native for row in rows],
        noise_weight,
        k,
    )
