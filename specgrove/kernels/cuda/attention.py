"""Tree attention over one-token KV slots, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.checks import check, optional_address
from specgrove.kernels.cuda.backend import backend, dtype_of, kernels_for, num_processors
from specgrove.kernels.model_step import StepRows

HEAD_DIMS = (64, 80, 96, 128, 256)
MAX_GROUP_SIZE = 128  # query heads of a KV head
# As in csrc/cuda/attention_plan.{h,cpp}.
_BLOCK_KEYS, _SPLIT_KEYS, _SPAN_SPLITS, _TILE_QUERIES, _MAX_SPLIT_TURNS = 64, 256, 8, 128, 3
_BLOCKS_PER_PROCESSOR = 2
_ALIGNMENT = 16
_HEADER, _ITEM, _TILE, _PASS = 9, 4, 4, 8  # int32 numbers of the structs there
_MAX_TREE_BLOCKS = 6  # of the blocks that a row's keys are in, those with tree nodes: trees have up to 256


@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """Of one rank."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group_size(self) -> int:
        """Query heads of a KV head. Raises ``ValueError`` where it isn't the same for all."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads can't be shared out to {self.num_kv_heads} KV heads")
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class PlanCapacity:
    """What the plans of all passes within limits need at most."""

    num_numbers: int
    """int32 numbers of the plan."""
    num_split_items: int
    """Pieces of work of tiles that have more than one split: they leave partial results."""

    def num_bytes(self, heads: AttentionHeads) -> int:
        """On the device: the plan, and room for partial results."""
        partials = self.num_split_items * _TILE_QUERIES * (heads.head_dim + 2)
        return 4 * (self.num_numbers + heads.num_kv_heads * (partials + self.num_split_items))

    @classmethod
    def of(
        cls, heads: AttentionHeads, max_num_rows: int, max_len: int, num_slots: int, num_processors: int
    ) -> PlanCapacity:
        """For passes of ``max_num_rows``, each of which sees up to ``max_len`` keys, over sequences that share no slot of ``num_slots``."""
        tile_rows = _TILE_QUERIES // heads.group_size
        # Every row may be a sequence of its own; a sequence has a tile for every tile_rows of its rows, and one that is not full.
        full_tiles = -(-max_num_rows // tile_rows)

        def num_pieces(num_keys: int) -> int:
            """Tiles times pieces of so many keys: of full tiles, and of each sequence's last one, but for one piece of each."""
            return full_tiles * -(-max_len // num_keys) + num_slots // num_keys

        # Only where there is more than one split is anything left: one piece more of each such sequence.
        num_long = num_slots // _SPLIT_KEYS
        splits = num_pieces(_SPLIT_KEYS) + num_long
        spans = num_pieces(_SPLIT_KEYS * _SPAN_SPLITS) + num_long
        few_splits = _MAX_SPLIT_TURNS * num_processors * _SPAN_SPLITS // heads.num_kv_heads
        own_passes = _MAX_TREE_BLOCKS * max_num_rows
        passes = num_pieces(_BLOCK_KEYS) + max_num_rows + own_passes
        numbers = _HEADER + _ITEM * (splits + max_num_rows) + (_TILE + 2) * max_num_rows + _PASS * passes
        return cls(
            num_numbers=numbers + num_slots + _BLOCK_KEYS * own_passes,
            num_split_items=max(spans, min(splits, few_splits)),
        )


def write_plan(
    batch: AttentionBatch | StepRows,
    heads: AttentionHeads,
    out: torch.Tensor,
    num_split_items: int,
    device: torch.device,
    processors: int | None = None,
) -> int:
    """Cuts a batch into pieces of work for a device (``csrc/cuda/attention_plan.h``): to ``out``, int32 on the CPU; how many numbers.

    ``processors`` are those of the device unless given; they change no bit. Raises ``ValueError`` for a batch that doesn't fit together, or
    not into ``out`` and ``num_split_items``.
    """
    check(out, "out", torch.int32, None)
    module = kernels_for(device)
    num_numbers = module.attention_plan(
        *batch.attention_arguments,
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
        batch: AttentionBatch | StepRows,
        heads: AttentionHeads,
        num_rows: int,
        device: torch.device,
        processors: int | None = None,
    ) -> AttentionPlan:
        """The plan of one batch; ``processors`` as for ``write_plan``. Raises ``ValueError`` for a batch that doesn't fit together."""
        num_slots = sum(len(slots) for slots in (batch.context_slots, batch.tree_slots))
        capacity = PlanCapacity.of(heads, num_rows, num_slots, num_slots, processors or num_processors(device))
        numbers = torch.empty(capacity.num_numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
        used = numbers[: write_plan(batch, heads, numbers, capacity.num_split_items, device, processors)]
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
) -> None:
    """See ``specgrove.kernels.attention``: the same, in bfloat16 or float16, to ``out`` ``[num_rows, num_heads * head_dim]``.

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
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_blocks=plan.num_blocks,
        num_rows=plan.num_rows,
        max_shared_bytes=plan.max_shared_bytes,
        stream=stream,
    )
