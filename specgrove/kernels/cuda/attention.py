"""Tree attention over one-token KV slots, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from specgrove.kernels.checks import check, optional_address
from specgrove.kernels.cuda.backend import backend, dtype_of, kernels_for, num_processors
from specgrove.kernels.device_memory import AttentionHeads, PlanCapacity
from specgrove.kernels.rows import PassRows

_BLOCKS_PER_PROCESSOR = 2
_ALIGNMENT = 16


def write_plan(
    rows: PassRows,
    heads: AttentionHeads,
    out: torch.Tensor,
    num_split_items: int,
    device: torch.device,
    processors: int | None = None,
) -> int:
    """Cuts a pass into pieces of work for a device (``csrc/cuda/attention_plan.h``): to ``out``, int32 on the CPU; how many numbers.

    ``processors`` are those of the device unless given; they change no bit. Raises ``ValueError`` for rows that don't fit together, or
    not into ``out`` and ``num_split_items``.
    """
    check(out, "out", torch.int32, None)
    module = kernels_for(device)
    num_numbers = module.attention_plan(
        *rows.attention_arguments,
        group_size=heads.group_size,
        num_kv_heads=heads.num_kv_heads,
        num_processors=processors or num_processors(device),
        out=out.data_ptr(),
        num_numbers=out.shape[0],
        num_split_items=num_split_items,
    )
    return int(num_numbers)


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A plan on the device, with room for partial results."""

    heads: AttentionHeads
    numbers: torch.Tensor  # int32
    partials: torch.Tensor  # float32
    arrived: torch.Tensor  # int32, zeros: who has left partial results
    num_rows: int
    num_blocks: int
    max_shared_bytes: int  # of a block

    @classmethod
    def of(
        cls,
        rows: PassRows,
        heads: AttentionHeads,
        num_rows: int,
        device: torch.device,
        processors: int | None = None,
    ) -> AttentionPlan:
        """The plan of one pass; ``processors`` as for ``write_plan``. Raises ``ValueError`` for rows that don't fit together."""
        num_slots = sum(len(slots) for slots in (rows.context_slots, rows.tree_slots))
        capacity = PlanCapacity.of(heads, num_rows, num_slots, num_slots, processors or num_processors(device))
        numbers = torch.empty(capacity.num_numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
        used = numbers[: write_plan(rows, heads, numbers, capacity.num_split_items, device, processors)]
        num_items = int(used[0])
        needed = PlanCapacity(len(used), num_items)
        plan = cls.empty(needed, heads, num_rows, device, used.to(device, non_blocking=True))
        return replace(plan, num_blocks=min(plan.num_blocks, num_items * heads.num_kv_heads))

    @classmethod
    def empty(
        cls,
        capacity: PlanCapacity,
        heads: AttentionHeads,
        num_rows: int,
        device: torch.device,
        numbers: torch.Tensor,
    ) -> AttentionPlan:
        """Whose ``numbers`` may be written anew before every pass."""
        num_partials = capacity.num_split_items * heads.num_kv_heads
        return cls(
            heads=heads,
            numbers=numbers,
            partials=torch.empty(num_partials, kernels_for(device).attention_partials(heads.head_dim), device=device),
            arrived=torch.zeros(num_partials, dtype=torch.int32, device=device),
            num_rows=num_rows,
            num_blocks=num_processors(device) * (1 if device.type == "cpu" else _BLOCKS_PER_PROCESSOR),
            max_shared_bytes=max_shared_bytes(device),
        )

    def of_rows(self, num_rows: int) -> AttentionPlan:
        """The same for so many rows: they may be fewer than the kernels' tensors have."""
        return replace(self, num_rows=num_rows)


@cache
def max_shared_bytes(device: torch.device) -> int:
    """Shared memory that a block may have."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index or 0
    return int(kernels_for(device).max_shared_bytes(index))


def tree_attention(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    scale: float,
    out: torch.Tensor,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> None:
    """As ``attend`` of ``specgrove.kernels.torch_ops``, in bfloat16 or float16, to ``out`` ``[num_rows, num_heads * head_dim]``.

    ``queries`` is ``[num_rows, num_heads, head_dim]``, the caches ``[num_slots, num_kv_heads, head_dim]``, all of one dtype; heads are of
    size 64, 80, 96, 128 or 256. Scores and sums are float32, weights are rounded to the dtype. Raises ``ValueError`` for other shapes, and
    ``RuntimeError`` where the device's blocks have too little shared memory for heads of that size.
    """
    module, stream = backend(queries, k_cache, v_cache, out, plan.numbers, alibi_slopes)
    heads = plan.heads
    num_heads, num_kv_heads, head_dim = heads.num_heads, heads.num_kv_heads, heads.head_dim
    dtype = queries.dtype
    check(queries, "queries", dtype, plan.num_rows, num_heads, head_dim)
    check(k_cache, "k_cache", dtype, None, num_kv_heads, head_dim)
    check(v_cache, "v_cache", dtype, *k_cache.shape)
    check(out, "out", dtype, plan.num_rows, num_heads * head_dim)
    for name, tensor in (("queries", queries), ("k_cache", k_cache), ("v_cache", v_cache)):
        if tensor.data_ptr() % _ALIGNMENT:
            raise ValueError(
                f"{name} must begin at a multiple of {_ALIGNMENT} bytes: the kernel copies so many at a time"
            )
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    module.tree_attention(
        queries=queries.data_ptr(),
        k_cache=k_cache.data_ptr(),
        v_cache=v_cache.data_ptr(),
        dtype=dtype_of(module, queries),
        out=out.data_ptr(),
        plan=plan.numbers.data_ptr(),
        partials=plan.partials.data_ptr(),
        arrived=plan.arrived.data_ptr(),
        alibi_slopes=optional_address(alibi_slopes, "alibi_slopes", num_heads),
        scale=scale,
        window=window or 0,
        soft_cap=soft_cap or 0.0,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_blocks=plan.num_blocks,
        num_rows=plan.num_rows,
        max_shared_bytes=plan.max_shared_bytes,
        stream=stream,
    )
