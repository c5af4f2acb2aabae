"""What all quantised types of GGUF come down to, and how their bits are taken apart. Used by the modules of the types."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Codes:
    """Blocks of weights: ``scales * codes + mins``, in this order of operations, in float32."""

    codes: torch.Tensor  # int8 or uint8 [num_blocks, block_len]
    scales: torch.Tensor  # float32 [num_blocks, num_groups]
    mins: torch.Tensor | None  # float32 [num_blocks, num_groups]; None: none are added

    def values(self) -> torch.Tensor:
        """float32 ``[num_blocks, block_len]``."""
        grouped = self.codes.float().view(*self.scales.shape, -1).mul_(self.scales[..., None])
        if self.mins is not None:
            grouped.add_(self.mins[..., None])
        return grouped.view(self.codes.shape)


def halves(blocks: torch.Tensor, offset: int) -> torch.Tensor:
    """The float16 at a place of every block: float32 ``[num_blocks, 1]``."""
    return blocks[:, offset : offset + 2].contiguous().view(torch.float16).float()


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """uint8 ``[..., n]`` to ``[..., 2 * n]``: the lower halves of all bytes, then the upper ones."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)
