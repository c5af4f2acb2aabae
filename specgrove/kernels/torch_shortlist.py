"""The likeliest token ids of rows by torch: the best by their scores, whose logits are then computed exactly.

Used by the backends that run torch's ops, and what the native kernels are tested against. In tiles of a fixed number of rows, so that a
row's bits don't depend on the rows beside it.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from specgrove.kernels.torch_ops import soft_cap

_TILE_ROWS = 16


def shortlist(
    scores: torch.Tensor,
    num_candidates: int,
    x: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    cap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places, logits and log-sum-exp: int64 ``[num_rows, num_candidates]``, as many logits, and ``[num_rows]``.

    ``scores`` is ``[num_rows, num_ids]``. Chosen are each row's largest, of equal ones the first; NaN is below all others. Their logits
    are ``x @ table[places].T`` (``[num_rows, size]``, ``[num_ids, size]``), or the scores where there is no table; they fall, and of equal
    ones the first comes first. With a ``cap`` both are soft-capped. The log-sum-exp is over candidates' logits and others' scores.
    """
    num_rows = len(scores)
    num_missing = -num_rows % _TILE_ROWS
    padded = functional.pad(scores, (0, 0, 0, num_missing))
    states = None if x is None or table is None else functional.pad(x, (0, 0, 0, num_missing))
    found = [
        _of_tile(padded[tile], num_candidates, None if states is None else states[tile], table, cap)
        for tile in (slice(row, row + _TILE_ROWS) for row in range(0, len(padded), _TILE_ROWS))
    ]
    if not found:
        shape = (0, num_candidates)
        return scores.new_empty(shape, dtype=torch.int64), scores.new_empty(shape), scores.new_empty(0)
    places, logits, log_sum_exp = (torch.cat(parts)[:num_rows] for parts in zip(*found, strict=True))
    return places, logits, log_sum_exp


def _of_tile(
    scores: torch.Tensor, num_candidates: int, x: torch.Tensor | None, table: torch.Tensor | None, cap: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = scores.masked_fill(scores.isnan(), -torch.inf)
    chosen = _order(scores)[:, :num_candidates].sort(dim=1).values  # by place: of equal logits the first comes first
    logits = scores.gather(1, chosen)
    if x is not None and table is not None:
        logits = (table[chosen].to(x.dtype) * x[:, None]).sum(-1)
    soft_cap(logits, cap)
    soft_cap(scores, cap)
    others = scores.scatter(1, chosen, -torch.inf)
    log_sum_exp = torch.logsumexp(torch.cat([logits, others], dim=1), dim=1)
    order = _order(logits)
    return chosen.gather(1, order), logits.gather(1, order), log_sum_exp


def _order(values: torch.Tensor) -> torch.Tensor:
    """Places by falling value, those of equal ones rising."""
    ranked = values.masked_fill(values.isnan(), -torch.inf)
    return ranked.sort(dim=1, descending=True, stable=True).indices
