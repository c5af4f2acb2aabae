"""Tree attention over one-token KV slots, on a GPU."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.checks import check, optional_address
from specgrove.kernels.cuda.backend import backend, dtype_of, kernels_for

_NUM_COUNTS = 2  # at the beginning of a plan: items, tiles
_BLOCKS_PER_PROCESSOR = 2


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A batch cut into pieces of work (``csrc/cuda/attention_plan.h``), on the device, with room for partial results; for all layers."""

    numbers: torch.Tensor  # int32
    partials: torch.Tensor  # float32
    arrived: torch.Tensor  # int32, zeros: who has left partial results
    num_rows: int
    group_size: int
    num_kv_heads: int
    head_dim: int
    num_blocks: int

    @classmethod
    def of(
        cls, batch: AttentionBatch, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> AttentionPlan:
        """Made on the host and copied once. Raises ``ValueError`` for a batch that doesn't fit together."""
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} heads can't be shared out to {num_kv_heads} KV heads")
        module = kernels_for(device)
        group_size = num_heads // num_kv_heads
        plan = module.attention_plan(
            batch.context_slots.data_ptr(),
            batch.context_offsets.data_ptr(),
            batch.tree_slots.data_ptr(),
            batch.tree_offsets.data_ptr(),
            batch.context_offsets.shape[0] - 1,
            batch.row_seq.data_ptr(),
            batch.row_context_len.data_ptr(),
            batch.row_masks.data_ptr(),
            *batch.row_masks.shape,
            group_size,
        )
        num_items, num_tiles = struct.unpack_from(f"{_NUM_COUNTS}i", plan)
        # Of a single split nothing is kept.
        num_partials = num_items * num_kv_heads if num_items > num_tiles else 0
        return cls(
            numbers=torch.frombuffer(bytearray(plan), dtype=torch.int32).to(device, non_blocking=True),
            partials=torch.empty(num_partials, module.attention_partials(head_dim), device=device),
            arrived=torch.zeros(num_tiles * num_kv_heads, dtype=torch.int32, device=device),
            num_rows=batch.row_seq.shape[0],
            group_size=group_size,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            num_blocks=min(num_items * num_kv_heads, _max_num_blocks(device)),
        )


def _max_num_blocks(device: torch.device) -> int:
    if device.type != "cuda":
        return 3  # so that the emulator's blocks take several items each
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * _BLOCKS_PER_PROCESSOR


def tree_attention(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    scale: float,
    out: torch.Tensor,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
) -> None:
    """See ``specgrove.kernels.attention``: the same, in bfloat16 or float16, to ``out`` ``[num_rows, num_heads * head_dim]``.

    ``queries`` is ``[num_rows, num_heads, head_dim]``, the caches ``[num_slots, num_kv_heads, head_dim]``, all of one dtype; heads are of
    size 64, 80, 96, 128 or 256. Scores and sums are float32, weights are rounded to the dtype. Raises ``ValueError`` for other shapes.
    """
    module, stream = backend(queries, k_cache, v_cache, out, plan.numbers, alibi_slopes)
    num_heads = plan.group_size * plan.num_kv_heads
    dtype = queries.dtype
    check(queries, "queries", dtype, plan.num_rows, num_heads, plan.head_dim)
    check(k_cache, "k_cache", dtype, None, plan.num_kv_heads, plan.head_dim)
    check(v_cache, "v_cache", dtype, *k_cache.shape)
    check(out, "out", dtype, plan.num_rows, num_heads * plan.head_dim)
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    module.tree_attention(
        queries.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        dtype_of(module, queries),
        out.data_ptr(),
        plan.numbers.data_ptr(),
        plan.partials.data_ptr(),
        plan.arrived.data_ptr(),
        optional_address(alibi_slopes, "alibi_slopes", num_heads),
        scale,
        window or 0,
        num_heads,
        plan.num_kv_heads,
        plan.head_dim,
        plan.num_blocks,
        stream,
    )
