"""The rows of a pass as one message, for the ranks of a parallel model, and back. Choices are not sent: ranks give logits.

Layers whose hidden states are wanted are sent, though rank 0 alone hands them out: the ranks of a stage must run the same program, since
one that hands out the last layer's takes all rows through it, and so through its sums of ranks.
"""

from __future__ import annotations

from array import array

import torch

from specgrove.kernels.rows import PassRows

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
    "hidden_layers": "q",
}
"""Field of ``PassRows``: type code of its array."""


_LAYERS = "hidden_layers"  # a tuple, the last part
MESSAGE_DTYPE = torch.uint8
_LEN_BYTES = 8


def to_tensor(rows: PassRows) -> torch.Tensor:
    """The lengths of the parts, then the parts, as the bytes they have in memory: a long context is many numbers."""
    parts = [*(getattr(rows, name) for name in _PARTS if name != _LAYERS), array(_PARTS[_LAYERS], rows.hidden_layers)]
    lengths = array("q", map(len, parts))
    return torch.frombuffer(bytearray().join([lengths, *parts]), dtype=MESSAGE_DTYPE)


def from_tensor(message: torch.Tensor) -> PassRows:
    """The rows that ``to_tensor`` was given, asked for logits only."""
    values = message.numpy().data
    end = len(_PARTS) * _LEN_BYTES
    lengths = array("q", bytes(values[:end]))
    rows = PassRows()
    for (name, code), length in zip(_PARTS.items(), lengths, strict=True):
        part = array(code)
        start, end = end, end + length * part.itemsize
        part.frombytes(values[start:end])
        setattr(rows, name, part)
    rows.hidden_layers = tuple(rows.hidden_layers)
    rows.choices = [None] * len(rows.asked_rows)
    return rows
