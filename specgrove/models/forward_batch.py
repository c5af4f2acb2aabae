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
        return ForwardBatch(
            self.token_ids.to(device),
            self.positions.to(device),
            self.slots.to(device),
            self.attention,
            self.logit_rows.to(device),
        )

    @property
    def num_rows(self) -> int:
        """Tokens in this forward pass."""
        return int(self.token_ids.shape[0])
