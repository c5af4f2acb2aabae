"""What the ranks of one tensor-parallel group do together: sums of their parts, and rows put side by side.

Programs call it between segments, or launch it among their kernels. Invariant: every rank gets the same bits, and a row's bits don't
depend on the other rows: parts are added in the order of the ranks, never in pieces as a ring all-reduce does it.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class TensorGroup(Protocol):
    """``rank`` of ``size``."""

    rank: int
    size: int
    can_be_captured: bool
    """Whether what it does on a GPU is launched on the current stream, as kernels are, so that graphs may have it in them."""

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks of tensors of one shape; may be ``part`` itself."""
        ...

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        """All ranks' columns side by side: ``[num_rows, sum(widths)]``; ``widths`` are those of the ranks' parts."""
        ...


class OneRank:
    """No others."""

    rank = 0
    size = 1
    can_be_captured = True

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """See ``TensorGroup``."""
        return part

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        """See ``TensorGroup``."""
        return part


class DistributedGroup:
    """Ranks of a ``torch.distributed`` process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.can_be_captured = dist.get_backend(group) == "nccl"  # Gloo works on the host

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """See ``TensorGroup``."""
        first, second, *others = self._gathered(part)
        torch.add(first, second, out=part)  # nothing is allocated for it, and nothing copied
        for other in others:
            part.add_(other)
        return part

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        """See ``TensorGroup``."""
        widest = max(widths)
        padded = part if part.shape[1] == widest else torch.nn.functional.pad(part, (0, widest - part.shape[1]))
        return torch.cat([rows[:, :width] for rows, width in zip(self._gathered(padded), widths, strict=True)], dim=1)

    def _gathered(self, part: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous(), group=self._group)
        return parts
