"""The rows of one forward pass as tensors: what ``specgrove.runtime`` builds and the decoder runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.kernels.attention import AttentionBatch


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One forward pass. ``logit_rows`` are the rows whose logits are wanted, in the order sequences were added."""

    token_ids: torch.Tensor  # int64 [num_rows]
    positions: torch.Tensor  # int32 [num_rows]
    slots: torch.Tensor  # int32 [num_rows], where each row's key and value go
    attention: AttentionBatch
    logit_rows: torch.Tensor  # int64 [num_logit_rows]

    def to(self, device: torch.device) -> ForwardBatch:
        """With the rows' tensors on a device. What attention sees is looked up by position and stays where it was made."""
        if device.type == "cpu":
            return self
        rows = (tensor.to(device, non_blocking=True) for tensor in (self.token_ids, self.positions, self.slots))
        return ForwardBatch(*rows, self.attention, self.logit_rows.to(device, non_blocking=True))

    @property
    def num_rows(self) -> int:
        """Tokens in this forward pass."""
        return int(self.token_ids.shape[0])
