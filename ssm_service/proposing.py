"""From a pass's candidates to what a draft proposes: ranked with the verifier's noise, with calibrated probabilities.

Used by all SSMs with weights. Why noise may be shared stands in ``specgrove.kernels.candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.kernels.candidates import CandidateRow, best_candidates
from specgrove.models.hidden_state.spec import Calibration
from ssm_service.drafts import Draft

NUM_CANDIDATES = 64
"""Most probable tokens of a row that are ranked with noise. The verifier's choice is seldom beyond them."""
Proposals = Sequence[tuple[int, float]]
"""(token id, log-probability) pairs, most probable first."""


def best_proposals(
    drafts: Sequence[Draft | None],
    calibration: Calibration,
    k: int,
    token_ids: torch.Tensor,
    logits: torch.Tensor,
    log_sum_exp: torch.Tensor,
) -> list[Proposals | None]:
    """Of each asked row the ``k`` most probable choices of the verifier; ``None`` for a row that isn't numbers.

    ``drafts``: whose rows they are; what comes of a row of none is of no use. Tensors as ``best_candidates`` takes them. Ids are the
    LLM's, for the noise is of those.
    """
    rows = [CandidateRow(0) if draft is None else _row_of(draft, calibration) for draft in drafts]
    log_probs, best_ids = best_candidates(token_ids, logits, log_sum_exp, rows, k, calibration.noise_weight)
    proposals = [
        [pair for pair in zip(ids, values, strict=True) if pair[0] >= 0]
        for ids, values in zip(best_ids.tolist(), log_probs.tolist(), strict=True)
    ]
    return [row or None for row in proposals]


def _row_of(draft: Draft, calibration: Calibration) -> CandidateRow:
    depth, sampling = draft.tree.depth, draft.sampling
    position, scale = len(draft.token_ids) + depth, calibration.scale(depth + 1)
    if sampling is None:
        return CandidateRow(position, scale=scale)
    scale *= calibration.noise_weight or 1.0  # one scale for all temperatures, the greedy choice among them
    return CandidateRow(position, sampling.temperature, sampling.seed, sampling.top_k, sampling.top_p, scale)
