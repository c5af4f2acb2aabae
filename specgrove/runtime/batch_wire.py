"""A forward batch as one tensor of integers, for the ranks of a parallel model, and back. Choices are not sent: ranks give logits."""

from __future__ import annotations

from array import array

import torch

from specgrove.kernels.model_step import StepRows
from specgrove.models.forward_batch import ForwardBatch

_PARTS = {
    "token_ids": "q",
    "positions": "i",
    "slots": "i",
    "context_slots": "i",
    "context_offsets": "i",
    "tree_slots": "i",
    "tree_offsets": "i",
    "row_seq": "i",
    "row_context_len": "i",
    "row_masks": "q",
    "asked_rows": "q",
}
"""Field of ``StepRows``: type code of its array."""


def to_tensor(batch: ForwardBatch) -> torch.Tensor:
    """int64: the lengths of the parts, then the parts."""
    parts = [getattr(batch.rows, name) for name in _PARTS]
    values = array("q", [len(part) for part in parts])
    for part in parts:
        values.extend(part.tolist())
    return torch.frombuffer(values, dtype=torch.int64)


def from_tensor(values: torch.Tensor) -> ForwardBatch:
    """The batch that ``to_tensor`` was given, asked for logits only."""
    lengths = values[: len(_PARTS)].tolist()
    parts = torch.split(values[len(_PARTS) :], lengths)
    rows = StepRows()
    for (name, code), part in zip(_PARTS.items(), parts, strict=True):
        setattr(rows, name, array(code, part.tolist()))
    rows.choices = [None] * len(rows.asked_rows)
    return ForwardBatch(rows)
