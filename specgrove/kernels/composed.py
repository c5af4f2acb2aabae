"""The ops composed from torch's own, for devices and dtypes that no kernels are for.

Same names, arguments and shapes as the wrappers of the CPU's kernels; float32 throughout. Slower than kernels, and right: a library may sum
in another order for another number of rows, and a row's bits must not depend on the rows beside it. So attention works on tiles of one
fixed shape; torch's norms reduce every row by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from specgrove.kernels.activations import Activation
    from specgrove.kernels.attention import AttentionBatch

_TILE_ROWS = 16
_BLOCK_KEYS = 128


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


def add_rms_norm(residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    residual += delta
    return rms_norm(residual, weight, eps)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_layer_norm(
    residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    residual += delta
    return layer_norm(residual, weight, bias, eps)


def add(residual: torch.Tensor, delta: torch.Tensor) -> None:
    """See ``specgrove.kernels.elementwise``."""
    residual += delta


def head_rms_norm(
    qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
) -> None:
    """See ``specgrove.kernels.elementwise``."""
    columns = qkv[:, first_head * head_dim : (first_head + num_heads) * head_dim]
    heads = columns.view(qkv.shape[0], num_heads, head_dim)
    heads.copy_(rms_norm(heads, weight, eps))


def activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    if activation == "silu":
        return functional.silu(x)
    if activation == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def gated(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return activate(gate, activation) * up


def embed(table: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``. Ids are not checked: that would wait for the device."""
    return table.index_select(0, token_ids).float()


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """See ``specgrove.kernels.attention``. Positions and slots are not checked."""
    _, num_kv_heads, head_dim = k_cache.shape
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    rotated = heads[:, : num_heads + num_kv_heads]
    if cos_sin is not None:
        cosines, sines = cos_sin.index_select(0, positions)[:, None].chunk(2, dim=-1)
        first, second = rotated.chunk(2, dim=-1)
        rotated = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    k_cache.index_copy_(0, slots.long(), rotated[:, num_heads:].to(k_cache.dtype))
    v_cache.index_copy_(0, slots.long(), heads[:, num_heads + num_kv_heads :].to(v_cache.dtype))
    return rotated[:, :num_heads].contiguous()


def key_table(batch: AttentionBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The slots of every row's keys by position, int64 ``[rows in tiles, keys in blocks]``, and their numbers, int64 ``[rows in tiles]``.

    Made where the batch lies; what stands after a row's keys is slot 0. A row that only fills its tile has one key.
    """
    num_rows, num_words = batch.row_masks.shape
    context_starts, tree_starts = batch.context_offsets[batch.row_seq], batch.tree_offsets[batch.row_seq]
    bits = batch.row_masks[:, :, None] >> torch.arange(64) & 1  # [num_rows, num_words, 64]
    is_ancestor = bits.view(num_rows, num_words * 64).bool()
    lengths = torch.ones(-(-num_rows // _TILE_ROWS) * _TILE_ROWS, dtype=torch.int64)
    lengths[:num_rows] = batch.row_context_len + is_ancestor.sum(-1)
    slots = torch.zeros(lengths.shape[0], -(-int(lengths.max()) // _BLOCK_KEYS) * _BLOCK_KEYS, dtype=torch.int64)
    for row in range(num_rows):
        start, context_len = int(context_starts[row]), int(batch.row_context_len[row])
        slots[row, :context_len] = batch.context_slots[start : start + context_len]
        nodes = is_ancestor[row].nonzero().flatten()
        slots[row, context_len : context_len + len(nodes)] = batch.tree_slots[int(tree_starts[row]) + nodes]
    return slots, lengths


def tree_attention(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """See ``specgrove.kernels.attention``: tiles of rows, and in each blocks of keys by position with a running softmax."""
    num_rows, num_heads, head_dim = queries.shape
    slots, lengths = batch.key_table_on(queries.device)
    queries = functional.pad(queries * scale, (0, 0, 0, 0, 0, slots.shape[0] - num_rows))
    longest = lengths.view(-1, _TILE_ROWS).amax(-1).tolist()
    tiles = [
        _attend_tile(queries[rows], k_cache, v_cache, slots[rows], lengths[rows], longest[tile], alibi_slopes, window)
        for tile, rows in enumerate(_tiles(slots.shape[0]))
    ]
    return torch.cat(tiles)[:num_rows].reshape(num_rows, num_heads * head_dim)


def _tiles(num_rows: int) -> list[slice]:
    return [slice(start, start + _TILE_ROWS) for start in range(0, num_rows, _TILE_ROWS)]


def _attend_tile(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    longest: int,
    alibi_slopes: torch.Tensor | None,
    window: int | None,
) -> torch.Tensor:
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = k_cache.shape[1]
    grouped = queries.reshape(num_rows * num_kv_heads, num_heads // num_kv_heads, head_dim)
    shape = (num_rows, num_kv_heads, num_heads // num_kv_heads)
    highest = queries.new_full((*shape, 1), -torch.inf)
    total, mixed = queries.new_zeros((*shape, 1)), queries.new_zeros((*shape, head_dim))
    last = (lengths - 1)[:, None]  # [num_rows, 1], the queries' positions
    for start in range(0, longest, _BLOCK_KEYS):
        found = slots[:, start : start + _BLOCK_KEYS]
        distances = last - torch.arange(start, start + _BLOCK_KEYS, device=queries.device)
        is_seen = distances >= 0 if window is None else (distances >= 0) & (distances < window)
        # What stands in a slot that a row doesn't see may be no number: its weight of zero is not enough.
        keys, values = (
            cache[found].float().masked_fill(~is_seen[..., None, None], 0.0).transpose(1, 2).flatten(0, 1)
            for cache in (k_cache, v_cache)
        )
        scores = torch.bmm(grouped, keys.transpose(1, 2)).view(*shape, _BLOCK_KEYS)
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
