"""A forward batch as one tensor of integers, for the ranks of a parallel model, and back."""

from __future__ import annotations

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.models.forward_batch import ForwardBatch

_NUM_PARTS = 10


def to_tensor(batch: ForwardBatch) -> torch.Tensor:
    """int64: the lengths of the parts, then the parts."""
    attention = batch.attention
    parts = (
        batch.token_ids,
        batch.positions,
        batch.slots,
        batch.logit_rows,
        attention.context_slots,
        attention.context_offsets,
        attention.tree_slots,
        attention.tree_offsets,
        attention.row_seq,
        attention.row_context_len,
    )
    lengths = torch.tensor([part.shape[0] for part in parts])
    return torch.cat([lengths, *(part.long() for part in parts), attention.row_masks.flatten()])


def from_tensor(values: torch.Tensor) -> ForwardBatch:
    """The batch that ``to_tensor`` was given."""
    lengths = values[:_NUM_PARTS].tolist()
    *parts, masks = torch.split(values[_NUM_PARTS:], [*lengths, values.shape[0] - _NUM_PARTS - sum(lengths)])
    token_ids, positions, slots, logit_rows = parts[0].clone(), parts[1].int(), parts[2].int(), parts[3].clone()
    context_slots, context_offsets, tree_slots, tree_offsets, row_seq, row_context_len = (
        part.int() for part in parts[4:]
    )
    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        attention=AttentionBatch(
            context_slots=context_slots,
            context_offsets=context_offsets,
            tree_slots=tree_slots,
            tree_offsets=tree_offsets,
            row_seq=row_seq,
            row_context_len=row_context_len,
            row_masks=masks.view(token_ids.shape[0], -1).clone(),
        ),
        logit_rows=logit_rows,
    )
