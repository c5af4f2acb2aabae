"""The ops of a pass by torch alone, in the dtype of their inputs: in float64 what kernels are tested against, in float32 what runs where
there are none for the device.

Slower than kernels, and right: a library may sum in another order for another number of rows, and a row's bits must not depend on the rows
beside it. So attention works on tiles of one fixed shape; torch's norms reduce every row by itself.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from specgrove.kernels.activations import Activation
from specgrove.kernels.rows import PassRows

_TILE_ROWS = 16
_BLOCK_KEYS = 128
_DTYPES = {"i": torch.int32, "q": torch.int64}


def norm(
    x: torch.Tensor, kind: Literal["rms", "layer"], scale: torch.Tensor, shift: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """RMS norm (arXiv 1910.07467) or layer norm (arXiv 1607.06450) of the last dimension; ``scale`` and ``shift`` are ``[size]``."""
    scale = scale.to(x.dtype)
    if kind == "rms":
        return functional.rms_norm(x, x.shape[-1:], scale, eps)
    return functional.layer_norm(x, x.shape[-1:], scale, None if shift is None else shift.to(x.dtype), eps)


def head_norm(x: torch.Tensor, scale: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int) -> None:
    """The RMS norm of each of some heads by itself, in place: columns from ``first_head * head_dim`` on of ``[num_rows, width]``."""
    columns = x[:, first_head * head_dim : (first_head + num_heads) * head_dim]
    heads = columns.view(x.shape[0], num_heads, head_dim)
    heads.copy_(norm(heads, "rms", scale, None, eps))


def activate(x: torch.Tensor, activation: Activation, *, is_gated: bool) -> torch.Tensor:
    """The activation of every element; gated: of ``[num_rows, 2 * size]``, ``activation(gate) * up``."""
    if is_gated:
        gate, up = x.chunk(2, dim=-1)
        return activate(gate, activation, is_gated=False) * up
    if activation == "silu":
        return functional.silu(x)
    if activation == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def soft_cap(x: torch.Tensor, cap: float | None) -> None:
    """Every element becomes ``cap * tanh(element / cap)``, in place (arXiv 2408.00118); ``None``: it stays."""
    if cap is not None:
        x.div_(cap).tanh_().mul_(cap)


def rotate_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """Rotates queries and keys (arXiv 2104.09864, halves as in Llama), writes keys and values to their slots; the queries.

    ``qkv`` is ``[num_rows, (num_heads + 2 * num_kv_heads) * head_dim]``, ``positions`` and ``slots`` int64 or int32 ``[num_rows]``, a
    cache ``[num_slots, num_kv_heads, head_dim]``. The queries are ``[num_rows, num_heads, head_dim]``.
    """
    _, num_kv_heads, head_dim = k_cache.shape
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    rotated = heads[:, : num_heads + num_kv_heads]
    if cos_sin is not None:
        cosines, sines = cos_sin.index_select(0, positions).to(qkv.dtype)[:, None].chunk(2, dim=-1)
        first, second = rotated.chunk(2, dim=-1)
        rotated = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    k_cache.index_copy_(0, slots.long(), rotated[:, num_heads:].to(k_cache.dtype))
    v_cache.index_copy_(0, slots.long(), heads[:, num_heads + num_kv_heads :].to(v_cache.dtype))
    return rotated[:, :num_heads].contiguous()


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The slots of every row's keys by position. What stands behind a row's keys is slot 0."""

    slots: torch.Tensor  # int64 [num_rows, keys in blocks]
    lens: torch.Tensor  # int64 [num_rows]

    @classmethod
    def of(cls, rows: PassRows) -> KeyTable:
        """Made on the CPU."""
        context_slots, context_offsets, tree_slots, tree_offsets, row_seq, context_lens, masks = map(
            tensor_of,
            (rows.context_slots, rows.context_offsets, rows.tree_slots, rows.tree_offsets, rows.row_seq,
             rows.row_context_len, rows.row_masks),
        )  # fmt: skip
        bits = masks.view(rows.num_rows, -1, 1) >> torch.arange(64) & 1  # [num_rows, num_mask_words, 64]
        is_ancestor = bits.flatten(1).bool()
        lens = context_lens.long() + is_ancestor.sum(-1)
        slots = torch.zeros(rows.num_rows, -(-int(lens.max()) // _BLOCK_KEYS) * _BLOCK_KEYS, dtype=torch.int64)
        starts, tree_starts = context_offsets[row_seq].tolist(), tree_offsets[row_seq].tolist()
        for row, context_len in enumerate(rows.row_context_len):
            slots[row, :context_len] = context_slots[starts[row] : starts[row] + context_len]
            nodes = is_ancestor[row].nonzero().flatten()
            slots[row, context_len : context_len + len(nodes)] = tree_slots[tree_starts[row] + nodes]
        return cls(slots, lens)

    def to(self, device: torch.device) -> KeyTable:
        """On another device."""
        return KeyTable(self.slots.to(device), self.lens.to(device))

    def taken(self, rows: torch.Tensor) -> KeyTable:
        """Of these rows only, int64 ``[n]``."""
        return KeyTable(self.slots[rows], self.lens[rows])


def tensor_of(values: array[int]) -> torch.Tensor:
    """A view of an array, which must not grow from now on."""
    dtype = _DTYPES[values.typecode]
    return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)


def attend(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    keys: KeyTable,
    scale: float,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
    score_cap: float | None = None,
) -> torch.Tensor:
    """Tree attention: softmax attention of every row over its keys, ``[num_rows, num_heads * head_dim]``.

    ``queries`` is ``[num_rows, num_heads, head_dim]``; ``alibi_slopes`` ``[num_heads]`` adds ``slope * (key position - query position)``
    (arXiv 2108.12409). With a ``window`` a row sees its last so many keys (arXiv 2004.05150). ``score_cap`` is the ``soft_cap`` of scaled
    scores, before slopes. In tiles of rows, and in each blocks of keys by position with a running softmax.
    """
    num_rows, num_heads, head_dim = queries.shape
    num_missing = -num_rows % _TILE_ROWS
    # A row that only fills its tile has one key.
    slots = functional.pad(keys.slots, (0, 0, 0, num_missing))
    lens = functional.pad(keys.lens, (0, num_missing), value=1)
    queries = functional.pad(queries * scale, (0, 0, 0, 0, 0, num_missing))
    slopes = None if alibi_slopes is None else alibi_slopes.to(queries.dtype)
    longest = lens.view(-1, _TILE_ROWS).amax(-1).tolist()
    tiles = [
        _attend_tile(queries[rows], k_cache, v_cache, slots[rows], lens[rows], longest[tile], slopes, window, score_cap)
        for tile, rows in enumerate(_tiles(len(lens)))
    ]
    return torch.cat(tiles)[:num_rows].reshape(num_rows, num_heads * head_dim)


def _tiles(num_rows: int) -> list[slice]:
    return [slice(start, start + _TILE_ROWS) for start in range(0, num_rows, _TILE_ROWS)]


def _attend_tile(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    lens: torch.Tensor,
    longest: int,
    alibi_slopes: torch.Tensor | None,
    window: int | None,
    score_cap: float | None,
) -> torch.Tensor:
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = k_cache.shape[1]
    grouped = queries.reshape(num_rows * num_kv_heads, num_heads // num_kv_heads, head_dim)
    shape = (num_rows, num_kv_heads, num_heads // num_kv_heads)
    highest = queries.new_full((*shape, 1), -torch.inf)
    total, mixed = queries.new_zeros((*shape, 1)), queries.new_zeros((*shape, head_dim))
    last = (lens - 1)[:, None]  # [num_rows, 1], the queries' positions
    for start in range(0, longest, _BLOCK_KEYS):
        found = slots[:, start : start + _BLOCK_KEYS]
        distances = last - torch.arange(start, start + _BLOCK_KEYS, device=queries.device)
        is_seen = distances >= 0 if window is None else (distances >= 0) & (distances < window)
        # What stands in a slot that a row doesn't see may be no number: its weight of zero is not enough.
        keys, values = (
            cache[found].to(queries.dtype).masked_fill(~is_seen[..., None, None], 0.0).transpose(1, 2).flatten(0, 1)
            for cache in (k_cache, v_cache)
        )
        scores = torch.bmm(grouped, keys.transpose(1, 2)).view(*shape, _BLOCK_KEYS)
        soft_cap(scores, score_cap)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes.view(1, *shape[1:], 1) * distances[:, None, None]
        scores = scores.masked_fill(~is_seen[:, None, None], -torch.inf)
        # A block of which a row sees nothing changes nothing of it: the old factor is one, and all new weights are zero.
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        is_empty = new_highest == -torch.inf
        factor = torch.where(is_empty, 1.0, torch.exp(highest - new_highest))
        weights = torch.where(is_empty, 0.0, torch.exp(scores - new_highest))
        total = total * factor + weights.sum(-1, keepdim=True)
        attended = torch.bmm(weights.view(-1, shape[2], _BLOCK_KEYS), values).view(*shape, head_dim)
        mixed, highest = mixed * factor + attended, new_highest
    return mixed / total
