"""The distillation loss: cross-entropy of the drafter against the teacher's likeliest tokens, without a full logits tensor.

The gradient is made with the loss, chunk by chunk, so the ``[num_positions, draft_vocab_size]`` logits never exist as a whole:
on a CPU that is most of the time of a step. Minimising it is minimising the KL divergence from the teacher.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_LEN = 512  # positions at a time


class _SoftTargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, target_ids: torch.Tensor, target_probs: torch.Tensor
    ) -> torch.Tensor:
        """See ``soft_target_loss``."""
        dtype = torch.bfloat16
        head_low = head.detach().to(dtype)
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros_like(head)
        total = torch.zeros((), dtype=torch.float32)
        num_positions = hidden.shape[0]
        for start in range(0, num_positions, CHUNK_LEN):
            chunk = slice(start, start + CHUNK_LEN)
            states, ids, probs = hidden.detach()[chunk].to(dtype), target_ids[chunk], target_probs[chunk]
            logits = (states @ head_low.T).float()
            log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (log_sum[:, 0] - (logits.gather(1, ids) * probs).sum(-1)).sum()
            gradient = logits.sub_(log_sum).exp_().scatter_add_(1, ids, -probs).to(dtype)
            hidden_grad[chunk] = gradient @ head_low
            head_grad += gradient.T @ states
        ctx.save_for_backward(hidden_grad / num_positions, head_grad / num_positions)
        return total / num_positions

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Scales the gradients that the forward made."""
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grad_outputs[0], head_grad * grad_outputs[0], None, None


def soft_target_loss(
    hidden: torch.Tensor, head: torch.Tensor, target_ids: torch.Tensor, target_probs: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy in nats. Products are done in bfloat16, sums in float32.

    ``hidden`` ``[num_positions, hidden_size]``, ``head`` ``[draft_vocab_size, hidden_size]``; ``target_ids`` and
    ``target_probs`` ``[num_positions, count]``, rows of the latter sum to 1, an id may stand several times.
    """
    loss = _SoftTargetLoss.apply(hidden, head, target_ids, target_probs)  # type: ignore[no-untyped-call]
    assert isinstance(loss, torch.Tensor)
    return loss
