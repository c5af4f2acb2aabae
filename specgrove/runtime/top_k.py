"""The most probable tokens after rows of logits, for drafting. A row that isn't numbers costs its own draft, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.kernels.sampling import top_k_log_probs


@dataclass(frozen=True, slots=True)
class TopK:
    """Most probable first. In rows whose logits hold NaN every token id is -1."""

    log_probs: torch.Tensor  # float32 [num_rows, k]
    token_ids: torch.Tensor  # int64 or int32 [num_rows, k]


def top_k_of(logits: torch.Tensor, k: int) -> TopK:
    """The most probable tokens by logits float32 ``[num_rows, vocab_size]`` on the CPU."""
    try:
        return TopK(*top_k_log_probs(logits, k))
    except ValueError:
        is_broken = logits.isnan().any(dim=1)
    log_probs, token_ids = top_k_log_probs(logits.nan_to_num(), k)
    token_ids[is_broken] = -1
    return TopK(log_probs, token_ids)
