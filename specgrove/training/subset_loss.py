"""The loss of a hidden-state SSM: cross-entropy against the teacher's likeliest tokens, by a frozen head of which few rows are read.

Rows are those that the batch's teachers name, which count as they are, and a sample of the others, which count for those left out. The
gradient is made with the loss, a chunk of positions at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_CHUNK_LEN = 512  # positions at a time


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Some rows of a head."""

    rows: torch.Tensor  # float32 [num_rows, hidden_size]
    offsets: torch.Tensor  # float32 [num_rows], added to the logits: log of how many tokens each stands for
    places: torch.Tensor  # int64 [vocab_size]: where a token's row is; -1: it is left out


def sampled_rows(
    head: torch.Tensor,
    named_ids: torch.Tensor,
    token_mass: npt.NDArray[np.float64],
    num_sampled: int,
    rng: np.random.Generator,
) -> HeadRows:
    """All of ``named_ids`` and about ``num_sampled`` of the others, the frequent ones rather."""
    vocab_size = len(head)
    is_named = np.zeros(vocab_size, bool)
    is_named[named_ids.numpy()] = True
    weights = np.where(is_named, 0.0, token_mass + 1.0)
    inclusion = np.minimum(1.0, num_sampled * weights / max(1e-9, weights.sum()))
    is_sampled = ~is_named & (rng.random(vocab_size) < inclusion)
    ids = np.concatenate([np.flatnonzero(is_named), np.flatnonzero(is_sampled)])
    offsets = np.concatenate([np.zeros(int(is_named.sum())), -np.log(inclusion[is_sampled])])
    places = torch.full((vocab_size,), -1)
    places[torch.from_numpy(ids)] = torch.arange(len(ids))
    return HeadRows(head[torch.from_numpy(ids)], torch.from_numpy(offsets).float(), places)


class _SubsetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        outputs: torch.Tensor,
        head: HeadRows,
        target_ids: torch.Tensor,
        target_probs: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See ``subset_loss``."""
        gradient = torch.empty_like(outputs)
        total = torch.zeros(())
        for start in range(0, len(outputs), _CHUNK_LEN):
            chunk = slice(start, start + _CHUNK_LEN)
            places, probs, share = head.places[target_ids[chunk]], target_probs[chunk], weights[chunk, None]
            logits = (outputs[chunk] @ head.rows.T).add_(head.offsets)
            log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += ((log_sum[:, 0] - (logits.gather(1, places) * probs).sum(-1)) * share[:, 0]).sum()
            errors = logits.sub_(log_sum).exp_().scatter_add_(1, places, -probs).mul_(share)
            gradient[chunk] = errors @ head.rows
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        """Scales the gradient that the forward made."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None


def subset_loss(
    outputs: torch.Tensor,
    head: HeadRows,
    target_ids: torch.Tensor,
    target_probs: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """The weighted mean of the cross-entropies, in nats; gradients go to ``outputs`` alone.

    ``outputs`` ``[num_positions, hidden_size]``; ``target_ids``, all of them among the head's rows, and ``target_probs``
    ``[num_positions, count]``, rows of the latter sum to 1; ``weights`` ``[num_positions]``.
    """
    shares = weights / weights.sum().clamp_min(1e-9)
    loss = _SubsetLoss.apply(outputs, head, target_ids, target_probs, shares)  # type: ignore[no-untyped-call]
    assert isinstance(loss, torch.Tensor)
    return loss
