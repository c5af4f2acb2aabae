"""Attention for ``HiddenStateModule``: over a sequence whose steps are unrolled for training, and over a cache with a mask.

Both are plain torch, and say who sees whom: pairs with the LLM's hidden states see those before them; a drafted step sees the true pairs
that the pair it began at sees, and its own ancestors.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def window_mask(num_rows: int, window: int, starts: torch.Tensor | None = None) -> torch.Tensor:
    """Who sees whom in a sequence of true pairs: bool ``[num_rows, num_rows]``, or ``[batch, 1, num_rows, num_rows]``.

    ``starts`` int64 ``[batch]``: nobody sees pairs before these, as in a session that was restored without them; such rows see themselves.
    """
    rows = torch.arange(num_rows)
    distance = rows[:, None] - rows
    mask = (distance >= 0) & (distance < window)
    if starts is None:
        return mask
    is_there = rows >= starts[:, None]
    return ((mask & is_there[:, None, :]) | torch.eye(num_rows, dtype=torch.bool))[:, None]


class UnrolledAttention:
    """For the steps of one training pass, called once for each: row i of step s continues the draft that began at pair i.

    It sees the true pairs up to i by ``mask`` (as ``window_mask`` makes it), and row i of the steps before it.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self._mask = mask
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See ``Attend``; tensors are ``[batch, heads, num_rows, head_dim]``."""
        group = queries.shape[-3] // keys.shape[-3]
        self._keys.append(keys.repeat_interleave(group, dim=-3))
        self._values.append(values.repeat_interleave(group, dim=-3))
        first_keys, first_values = self._keys[0], self._values[0]
        if len(self._keys) == 1:
            return functional.scaled_dot_product_attention(queries, first_keys, first_values, attn_mask=self._mask)
        scale = queries.shape[-1] ** -0.5
        scores = (queries @ first_keys.transpose(-2, -1) * scale).masked_fill(~self._mask, -torch.inf)
        own = [(queries * step_keys).sum(dim=-1, keepdim=True) * scale for step_keys in self._keys[1:]]
        weights = torch.cat([scores, *own], dim=-1).softmax(dim=-1)
        num_rows = queries.shape[-2]
        attended = weights[..., :num_rows] @ first_values
        for step, step_values in enumerate(self._values[1:]):
            attended = attended + weights[..., num_rows + step, None] * step_values
        return attended


class CachedAttention:
    """For rows after others: keys and values are kept, and each call's ``mask`` says which of all rows its rows see.

    ``mask`` is set before each call: bool ``[num_rows, num_kept + num_rows]``, all rows in the order of the calls.
    """

    def __init__(self) -> None:
        self.mask = torch.zeros(0, 0, dtype=torch.bool)
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """See ``Attend``; tensors are ``[heads, num_rows, head_dim]``."""
        self._keys = keys if self._keys is None else torch.cat([self._keys, keys], dim=-2)
        self._values = values if self._values is None else torch.cat([self._values, values], dim=-2)
        group = queries.shape[-3] // keys.shape[-3]
        all_keys, all_values = (kept.repeat_interleave(group, dim=-3) for kept in (self._keys, self._values))
        scores = queries @ all_keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
        attended: torch.Tensor = scores.masked_fill(~self.mask, -torch.inf).softmax(dim=-1) @ all_values
        return attended

    def truncate(self, num_kept: int) -> None:
        """Forgets all rows but the first."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[..., :num_kept, :], self._values[..., :num_kept, :]
