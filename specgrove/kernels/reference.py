"""The kernels in pure torch: slow, obviously correct, and what the native ones are tested against.

Names and arguments are those of the wrappers. Floating point is float64 where only closeness is promised; where bits are
promised (the Gumbel noise), the same float32 operations in the same order as in csrc/cpu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.kernels.trees import Arrays


def merge_trees(trees: Sequence[Arrays], max_num_nodes: int) -> tuple[list[int], list[int], list[float], list[int]]:
    """See ``specgrove.kernels.trees``. Paths as dictionary keys instead of indices."""
    log_probs: dict[tuple[int, ...], float] = {}
    sources: dict[tuple[int, ...], int] = {}
    for token_ids, parents, tree_log_probs, tree_sources in trees:
        paths: list[tuple[int, ...]] = []
        for node, token_id in enumerate(token_ids):
            path = (*(paths[parents[node]] if node else ()), token_id)
            paths.append(path)
            log_probs[path] = max(log_probs.get(path, -float("inf")), tree_log_probs[node])
            sources[path] = sources.get(path, 0) | tree_sources[node]
    order = {path: index for index, path in enumerate(log_probs)}

    def score(path: tuple[int, ...]) -> float:
        # Added up from the root, as the native kernel does: floating-point sums depend on the order.
        total = 0.0
        for length in range(2, len(path) + 1):
            total += min(log_probs[path[:length]], 0.0)
        return total

    kept = sorted(
        sorted(log_probs, key=lambda path: (-score(path), order[path]))[:max_num_nodes], key=order.__getitem__
    )
    place = {path: index for index, path in enumerate(kept)}
    return (
        [path[-1] for path in kept],
        [place.get(path[:-1], -1) for path in kept],
        [log_probs[path] for path in kept],
        [sources[path] for path in kept],
    )


def ancestor_masks(parents: Sequence[int]) -> bytes:
    """See ``specgrove.kernels.trees``."""
    num_bytes = (len(parents) + 63) // 64 * 8
    masks: list[int] = []
    for node, parent in enumerate(parents):
        masks.append(1 << node | (masks[parent] if parent >= 0 else 0))
    return b"".join(mask.to_bytes(num_bytes, "little") for mask in masks)


def walk_tree(token_ids: Sequence[int], parents: Sequence[int], choices: Sequence[int]) -> list[int]:
    """See ``specgrove.kernels.trees``."""
    accepted: list[int] = []
    node = 0
    while True:
        children = [i for i in range(1, len(token_ids)) if parents[i] == node and token_ids[i] == choices[node]]
        if not children:
            return accepted
        node = children[0]
        accepted.append(node)


def validate_tree(token_ids: Sequence[int], parents: Sequence[int], vocab_size: int, max_num_nodes: int) -> None:
    """Raises ``ValueError`` for what is no tree."""
    if not token_ids or len(token_ids) != len(parents) or len(token_ids) > max_num_nodes:
        raise ValueError("malformed token tree: sizes")
    if any(not 0 <= token_id < vocab_size for token_id in token_ids):
        raise ValueError("malformed token tree: a token id")
    if parents[0] != -1 or any(not 0 <= parent < node for node, parent in enumerate(parents) if node):
        raise ValueError("malformed token tree: a parent")
    edges = list(zip(parents, token_ids, strict=True))
    if len(set(edges)) != len(edges):
        raise ValueError("malformed token tree: two siblings with one token")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``PackedLinear``; float64 ``[num_rows, out_features]``."""
    rounded = x.to(torch.bfloat16) if weight.dtype is torch.bfloat16 else x
    out = rounded.double() @ weight.double().T
    return out if bias is None else out + bias.double()


def rounded_inputs(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """What ``QuantizedLinear`` makes of ``x`` ``[num_rows, in_features]``: codes of 8 bits with one scale for each 64 inputs of a group."""
    groups = x.view(len(x), -1, group_size)
    padded = torch.nn.functional.pad(groups, (0, -group_size % 64)).view(*groups.shape[:2], -1, 64)
    largest = padded.abs().amax(-1, keepdim=True)
    is_zero = largest < 2.0**-119
    codes = (padded * (127 / largest).masked_fill(is_zero, 0.0)).round()  # ties to even
    scales = (largest / 127).masked_fill(is_zero, 0.0)
    return (codes * scales).flatten(-2)[..., :group_size].reshape(x.shape)


def quantized_linear(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``QuantizedLinear``; float64 ``[num_rows, out_features]``."""
    exact = weight.codes.double().view(*weight.scales.shape, -1) * weight.scales.double()[..., None]
    if weight.mins is not None:
        exact += weight.mins.double()[..., None]
    return linear(rounded_inputs(x, weight.group_size), exact.view(weight.codes.shape), bias)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    x = x.double()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.double()


def add_rms_norm(residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    residual += delta
    return rms_norm(residual, weight, eps)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    double_bias = None if bias is None else bias.double()
    return torch.nn.functional.layer_norm(x.double(), x.shape[1:], weight.double(), double_bias, eps)


def add_layer_norm(
    residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    residual += delta
    return layer_norm(residual, weight, bias, eps)


def add(residual: torch.Tensor, delta: torch.Tensor) -> None:
    """See ``specgrove.kernels.elementwise``."""
    residual += delta


def head_rms_norm(
    qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
) -> None:
    """See ``specgrove.kernels.elementwise``; in the type of ``qkv``."""
    columns = qkv[:, first_head * head_dim : (first_head + num_heads) * head_dim]
    heads = columns.view(qkv.shape[0], num_heads, head_dim)
    heads.copy_(rms_norm(heads, weight, eps))


def activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    functions: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "relu": torch.relu,
    }
    return functions[activation](x.double())


def gated(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``; float64."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return activate(gate, activation) * up


def embed(table: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """See ``specgrove.kernels.elementwise``."""
    return table[token_ids].float()


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """See ``specgrove.kernels.attention``."""
    _, num_kv_heads, head_dim = k_cache.shape
    heads = qkv.view(qkv.shape[0], -1, head_dim)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        if cos_sin is None:
            return x
        cosines, sines = cos_sin[positions.long()][:, None].chunk(2, dim=-1)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)

    num_heads = heads.shape[1] - 2 * num_kv_heads
    k_cache[slots.long()] = rotated(heads[:, num_heads : num_heads + num_kv_heads]).to(k_cache.dtype)
    v_cache[slots.long()] = heads[:, num_heads + num_kv_heads :].to(v_cache.dtype)
    return rotated(heads[:, :num_heads]).clone()


def tree_attention(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """See ``specgrove.kernels.attention``; float64, one row at a time."""
    num_rows, num_heads, head_dim = queries.shape
    group_size = num_heads // k_cache.shape[1]
    out = torch.empty(num_rows, num_heads, head_dim, dtype=torch.float64)
    for row in range(num_rows):
        sequence = int(batch.row_seq[row])
        start, tree_start = int(batch.context_offsets[sequence]), int(batch.tree_offsets[sequence])
        slots = batch.context_slots[start : start + int(batch.row_context_len[row])].tolist()
        num_nodes = int(batch.tree_offsets[sequence + 1]) - tree_start
        for node in range(num_nodes):
            if int(batch.row_masks[row, node // 64]) >> (node % 64) & 1:
                slots.append(int(batch.tree_slots[tree_start + node]))
        slots = slots if window is None else slots[-window:]
        keys, values = (cache[slots].double().repeat_interleave(group_size, dim=1) for cache in (k_cache, v_cache))
        scores = torch.einsum("hd,khd->hk", queries[row].double(), keys) * scale
        if alibi_slopes is not None:
            scores += alibi_slopes.double()[:, None] * (torch.arange(len(slots)) - (len(slots) - 1))
        out[row] = torch.einsum("hk,khd->hd", torch.softmax(scores, dim=-1), values)
    return out.view(num_rows, -1)
