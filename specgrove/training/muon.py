"""Muon, an optimiser of matrices by orthogonal updates (https://kellerjordan.github.io/posts/muon). Used by both trainers.

torch's own multiplies in bfloat16, which takes ten times as long as float32 on processors without products of that type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_RMS_OF_ADAM = 0.2  # the update's size, so that learning rates are those of AdamW


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions. Updates have the RMS that AdamW's have (https://arxiv.org/abs/2502.16982)."""

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                average = state.setdefault("momentum", torch.zeros_like(matrix))
                average.mul_(group["momentum"]).add_(matrix.grad)
                update = orthogonal(matrix.grad.add(average, alpha=group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * _RMS_OF_ADAM * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal matrix nearest to a float32 one: singular values lie around 1, between about 0.7 and 1.2."""
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.T if is_tall else x
