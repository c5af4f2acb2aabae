"""From a pass's candidates to what a draft proposes: ranked with the verifier's noise, with calibrated probabilities.

Used by all SSMs with weights. Why noise may be shared stands in ``specgrove.kernels.candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.kernels.candidates import CandidateRow, best_candidates
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.models.hidden_state.spec import Calibration
from ssm_service.nodes import Proposals

NUM_CANDIDATES = 64
"""Most probable tokens of a row that are ranked with noise. The verifier's choice is seldom beyond them."""
NUM_AHEAD = 8
"""Proposals kept of a row where a draft goes on ahead: the verifier's own next token is often one that was not drafted."""


def best_proposals(
    rows: Sequence[CandidateRow],
    calibration: Calibration,
    k: int,
    token_ids: torch.Tensor,
    logits: torch.Tensor,
    log_sum_exp: torch.Tensor,
) -> list[Proposals | None]:
    """Of each asked row the ``k`` most probable choices of the verifier; ``None`` for a row that isn't numbers.

    ``rows`` are ``row_of``. Tensors as ``best_candidates`` takes them. Ids are the LLM's, for the noise is of those.
    """
    found = best_candidates(token_ids, logits, log_sum_exp, rows, k, calibration.noise_weight)
    return [proposals or None for proposals in found]


def row_of(num_committed: int, depth: int, sampling: DraftSampling | None, calibration: Calibration) -> CandidateRow:
    """The row of a node at a depth below the last of so many committed tokens, whose depth is 0."""
    position, scale = num_committed + depth, calibration.scale(depth + 1)
    if sampling is None:
        return CandidateRow(position, scale=scale)
    scale *= calibration.noise_weight or 1.0  # one scale for all temperatures, the greedy choice among them
    return CandidateRow(position, sampling.temperature, sampling.seed, sampling.top_k, sampling.top_p, scale)
