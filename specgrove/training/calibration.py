"""Scales that make a hidden-state SSM's probabilities mean what they say, one for each depth. Used by ``hidden_export``.

A scale divides the scores: above 1 the SSM was too sure. It is the one under which held-out tokens of the LLM are likeliest.
"""

from __future__ import annotations

import torch

from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.spec import Calibration
from specgrove.training.hidden_data import HiddenBatch
from specgrove.training.hidden_training import unrolled_outputs
from specgrove.training.target import TargetEnds

_SCALES = tuple(0.6 + 0.05 * step for step in range(29))  # 0.6 to 2.0
_ROWS_PER_BATCH = 256  # at most, of each depth, evenly spread: each is scored by the whole head under each scale


@torch.no_grad()
def depth_scales(
    module: HiddenStateModule, batches: list[HiddenBatch], ends: TargetEnds, num_depths: int
) -> tuple[float, ...]:
    """``num_depths`` scales, for nodes 1, 2, ... below the last committed token."""
    losses = torch.zeros(num_depths, len(_SCALES), dtype=torch.float64)
    for batch in batches:
        outputs = unrolled_outputs(module, batch, ends.embedding, num_depths)
        for depth, states in enumerate(outputs):
            first = 1 + depth
            chosen = batch.is_made[:, first:-1]
            next_ids = batch.token_ids[:, first + 1 :][chosen]
            rows = states[:, : chosen.shape[1]][chosen]
            stride = max(1, -(-len(rows) // _ROWS_PER_BATCH))
            logits = rows[::stride] @ ends.head.T
            of_next = logits.gather(1, next_ids[::stride, None])[:, 0]
            for place, scale in enumerate(_SCALES):
                losses[depth, place] += float((torch.logsumexp(logits / scale, dim=-1) - of_next / scale).sum())
    return tuple(round(_SCALES[int(row.argmin())], 2) if row.any() else 1.0 for row in losses)


def calibrated(module: HiddenStateModule, batches: list[HiddenBatch], ends: TargetEnds, num_depths: int) -> Calibration:
    """The noise's weight stays what was measured to be best."""
    return Calibration(depth_scales(module, batches, ends, num_depths))
