"""The rows of one forward pass as tensors, for decoders that don't run in one native call.

``specgrove.runtime`` builds batches; the decoder runs them.
"""

from __future__ import annotations

from array import array
from functools import cached_property

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.rows import PassRows

_CPU = torch.device("cpu")


class ForwardBatch:
    """One forward pass. Its tensors are made when they are first asked for, and lie on ``device``."""

    def __init__(self, rows: PassRows, device: torch.device = _CPU) -> None:
        self.rows = rows
        self._device = device

    @property
    def num_rows(self) -> int:
        """Tokens in this forward pass."""
        return self.rows.num_rows

    @cached_property
    def token_ids(self) -> torch.Tensor:
        """int64 ``[num_rows]``."""
        return _tensor(self.rows.token_ids).to(self._device)

    @cached_property
    def positions(self) -> torch.Tensor:
        """int32 ``[num_rows]``."""
        return _tensor(self.rows.positions).to(self._device)

    @cached_property
    def slots(self) -> torch.Tensor:
        """int32 ``[num_rows]``: where each row's key and value go."""
        return _tensor(self.rows.slots).to(self._device)

    @cached_property
    def logit_rows(self) -> torch.Tensor:
        """int64 ``[num_logit_rows]``: the rows that are asked for something, in the order sequences were added."""
        return _tensor(self.rows.asked_rows).to(self._device)

    @cached_property
    def attention(self) -> AttentionBatch:
        """What attention sees, on the CPU: it is looked up by position."""
        rows = self.rows
        return AttentionBatch(
            context_slots=_tensor(rows.context_slots),
            context_offsets=_tensor(rows.context_offsets),
            tree_slots=_tensor(rows.tree_slots),
            tree_offsets=_tensor(rows.tree_offsets),
            row_seq=_tensor(rows.row_seq),
            row_context_len=_tensor(rows.row_context_len),
            row_masks=_tensor(rows.row_masks).view(rows.num_rows, -1),
        )

    def to(self, device: torch.device) -> ForwardBatch:
        """With the rows' tensors on a device."""
        return self if device == self._device else ForwardBatch(self.rows, device)


_DTYPES = {"i": torch.int32, "q": torch.int64}


def _tensor(values: array[int]) -> torch.Tensor:
    """A view of an array, which must not grow from now on."""
    dtype = _DTYPES[values.typecode]
    return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
