"""The floating-point kernels in pure torch, in float64: what the native ones are tested against. Names are those of the wrappers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.attention import AttentionBatch


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
