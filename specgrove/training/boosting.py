"""Collective boost-tuning (SpecInfer, arXiv 2305.09781, section 3): each next SSM learns most where all before it fail.

Called by ``stages`` between two trainings. What counts as a failure: none of the SSMs names the teacher's first choice first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.training.hidden_data import HiddenDialogues
from specgrove.training.hidden_training import unrolled_outputs
from specgrove.training.target import TargetEnds

KNOWN_WEIGHT = 0.2  # of a place where an earlier SSM is right: no SSM may forget what is easy


@torch.no_grad()
def position_weights(
    modules: Sequence[HiddenStateModule], data: HiddenDialogues, ends: TargetEnds
) -> list[torch.Tensor]:
    """For each dialogue, of its tokens ``[length]``: 1 where the guess after it was wrong by all SSMs, ``KNOWN_WEIGHT`` elsewhere."""
    weights = []
    for index in range(len(data)):
        batch = data.batch([index])
        told = batch.top_ids[0, 1:, 0]
        is_known = torch.zeros(len(told), dtype=torch.bool)
        for module in modules:
            (outputs,) = unrolled_outputs(module, batch, ends.embedding, 1)
            is_known |= (outputs[0, :-1] @ ends.head.T).argmax(dim=-1) == told
        of_tokens = torch.ones(len(told) + 1)
        of_tokens[1:][is_known] = KNOWN_WEIGHT
        weights.append(of_tokens)
    return weights


def share_known(weights: Sequence[torch.Tensor]) -> float:
    """Of all places, those where an SSM was right."""
    num_known = sum(int((each < 1).sum()) for each in weights)
    return num_known / max(1, sum(len(each) for each in weights))
