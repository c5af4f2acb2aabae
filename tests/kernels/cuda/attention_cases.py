"""Rows, caches and queries for the GPUs' tree attention, and its rows as torch computes them."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from specgrove.kernels.cuda.attention import AttentionPlan, tree_attention
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_ops import KeyTable, attend, tensor_of
from specgrove.runtime.pass_builder import PassBuilder
from tests.kernels.cuda.conftest import poisoned
from tests.kernels.test_attention import random_tree

NUM_SLOTS = 2500

DTYPES = [torch.bfloat16, torch.float16]

HEADS = [(2, 2, 64), (3, 1, 64), (8, 1, 80), (2, 1, 96), (4, 2, 128), (2, 1, 256), (71, 1, 64)]


class Case:
    """Caches in which only slots that some row sees hold numbers, and queries."""

    def __init__(self, batch: PassRows, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.num_heads, self.num_kv_heads, self.head_dim = heads
        self.heads = AttentionHeads(*heads)
        self.device = device
        generator = torch.Generator().manual_seed(self.head_dim)
        shape = (NUM_SLOTS, self.num_kv_heads, self.head_dim)
        self.caches = [torch.randn(shape, generator=generator).to(dtype) for _ in range(2)]
        unseen = torch.ones(NUM_SLOTS, dtype=torch.bool)
        unseen[torch.cat([tensor_of(batch.context_slots), tensor_of(batch.tree_slots)]).long()] = False
        for cache in self.caches:
            cache[unseen] = torch.nan
        shape = (batch.num_rows, self.num_heads, self.head_dim)
        self.queries = torch.randn(shape, generator=generator).to(dtype)
        self.slopes = torch.rand(self.num_heads, generator=generator)
        self.scale = self.head_dim**-0.5

    def run(
        self,
        batch: PassRows,
        rows: slice = slice(None),
        *,
        num_fillers: int = 0,
        shared_kib: int | None = None,
        num_blocks: int | None = None,
        **options: object,
    ) -> torch.Tensor:
        """Of a batch whose rows have these of the queries; fillers are rows that no plan names."""
        queries = torch.cat([self.queries[rows], self.queries[:1].expand(num_fillers, -1, -1)]).to(self.device)
        plan = AttentionPlan.of(batch, self.heads, len(queries), self.device)
        if shared_kib is not None:
            plan = replace(plan, max_shared_bytes=shared_kib * 1024)
        if num_blocks is not None:
            plan = replace(plan, num_blocks=num_blocks)
        plan.partials.fill_(torch.nan)
        k_cache, v_cache = (cache.to(self.device) for cache in self.caches)
        out = poisoned(len(queries), self.num_heads * self.head_dim, dtype=queries.dtype, device=self.device)
        slopes = self.slopes.to(self.device) if options.get("has_alibi") else None
        window = options.get("window")
        assert window is None or isinstance(window, int)
        soft_cap = options.get("soft_cap")
        assert soft_cap is None or isinstance(soft_cap, float)
        tree_attention(queries, k_cache, v_cache, plan, self.scale, out, slopes, window, soft_cap)
        assert not plan.arrived.any()
        return out[: len(queries) - num_fillers].cpu()

    def exact(
        self, batch: PassRows, window: int | None = None, *, has_alibi: bool = False, soft_cap: float | None = None
    ) -> torch.Tensor:
        """In float64."""
        slopes = self.slopes if has_alibi else None
        return attend(self.queries.double(), *self.caches, KeyTable.of(batch), self.scale, slopes, window, soft_cap)

    def in_torch(
        self, batch: PassRows, window: int | None, has_alibi: bool, soft_cap: float | None = None
    ) -> torch.Tensor:
        """The same computation at the same precision: weights are rounded before values are mixed."""
        rows = []
        for row, sequence in enumerate(batch.row_seq):
            slots = row_slots(batch, row, sequence)
            slots = slots if window is None else slots[-window:]
            group_size = self.num_heads // self.num_kv_heads
            keys, values = (cache[slots].repeat_interleave(group_size, dim=1) for cache in self.caches)
            scores = torch.einsum("hd,khd->hk", self.queries[row].float(), keys.float()) * self.scale
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            if has_alibi:
                scores += self.slopes[:, None] * (torch.arange(len(slots)) - (len(slots) - 1))
            weights = torch.softmax(scores, dim=-1).to(keys.dtype)
            rows.append(torch.einsum("hk,khd->hd", weights.float(), values.float()).to(keys.dtype).flatten())
        return torch.stack(rows)


def row_slots(batch: PassRows, row: int, sequence: int) -> list[int]:
    """The slots of a row's keys, by position."""
    start, tree_start = batch.context_offsets[sequence], batch.tree_offsets[sequence]
    slots = batch.context_slots[start : start + batch.row_context_len[row]]
    num_nodes, num_words = batch.tree_offsets[sequence + 1] - tree_start, batch.num_mask_words
    is_ancestor = (batch.row_masks[row * num_words + node // 64] >> (node % 64) & 1 for node in range(num_nodes))
    return [*slots, *(batch.tree_slots[tree_start + node] for node, is_one in enumerate(is_ancestor) if is_one)]


def long_batch(context_len: int, num_nodes: int) -> PassRows:
    """A tree after a context of several splits."""
    rng = random.Random(context_len)
    slots = rng.sample(range(NUM_SLOTS), NUM_SLOTS)
    builder = PassBuilder()
    context = [slots.pop() for _ in range(context_len)]
    builder.add(context, (), random_tree(rng, num_nodes, slots))
    return builder.build()
