"""Tree attention for GPUs against float64, and rows whose bits depend on their keys' tokens and positions only."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from specgrove.kernels import reference
from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.cuda import attention
from specgrove.kernels.cuda.attention import AttentionHeads, AttentionPlan, PlanCapacity, tree_attention, write_plan
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows
from tests.kernels.cuda.conftest import assert_as_exact_as_torch, poisoned
from tests.kernels.test_attention import random_batch, random_tree

NUM_SLOTS = 2500
DTYPES = [torch.bfloat16, torch.float16]
HEADS = [(2, 2, 64), (3, 1, 64), (8, 1, 80), (2, 1, 96), (4, 2, 128), (2, 1, 256), (71, 1, 64)]


class Case:
    """Caches in which only slots that some row sees hold numbers, and queries."""

    def __init__(
        self, batch: AttentionBatch, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_heads, self.num_kv_heads, self.head_dim = heads
        self.heads = AttentionHeads(*heads)
        self.device = device
        generator = torch.Generator().manual_seed(self.head_dim)
        shape = (NUM_SLOTS, self.num_kv_heads, self.head_dim)
        self.caches = [torch.randn(shape, generator=generator).to(dtype) for _ in range(2)]
        unseen = torch.ones(NUM_SLOTS, dtype=torch.bool)
        unseen[torch.cat([batch.context_slots, batch.tree_slots]).long()] = False
        for cache in self.caches:
            cache[unseen] = torch.nan
        shape = (batch.row_seq.shape[0], self.num_heads, self.head_dim)
        self.queries = torch.randn(shape, generator=generator).to(dtype)
        self.slopes = torch.rand(self.num_heads, generator=generator)
        self.scale = self.head_dim**-0.5

    def run(
        self,
        batch: AttentionBatch,
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
        tree_attention(queries, k_cache, v_cache, plan, self.scale, out, slopes, window)
        assert not plan.arrived.any()
        return out[: len(queries) - num_fillers].cpu()

    def in_torch(self, batch: AttentionBatch, window: int | None, has_alibi: bool) -> torch.Tensor:
        """The same computation at the same precision: weights are rounded before values are mixed."""
        sequence_of = batch.row_seq.tolist()
        rows = []
        for row, sequence in enumerate(sequence_of):
            slots = row_slots(batch, row, sequence)
            slots = slots if window is None else slots[-window:]
            group_size = self.num_heads // self.num_kv_heads
            keys, values = (cache[slots].repeat_interleave(group_size, dim=1) for cache in self.caches)
            scores = torch.einsum("hd,khd->hk", self.queries[row].float(), keys.float()) * self.scale
            if has_alibi:
                scores += self.slopes[:, None] * (torch.arange(len(slots)) - (len(slots) - 1))
            weights = torch.softmax(scores, dim=-1).to(keys.dtype)
            rows.append(torch.einsum("hk,khd->hd", weights.float(), values.float()).to(keys.dtype).flatten())
        return torch.stack(rows)


def row_slots(batch: AttentionBatch, row: int, sequence: int) -> list[int]:
    """The slots of a row's keys, by position."""
    start, tree_start = int(batch.context_offsets[sequence]), int(batch.tree_offsets[sequence])
    slots = batch.context_slots[start : start + int(batch.row_context_len[row])].tolist()
    num_nodes = int(batch.tree_offsets[sequence + 1]) - tree_start
    is_ancestor = (int(batch.row_masks[row, node // 64]) >> (node % 64) & 1 for node in range(num_nodes))
    return [*slots, *(int(batch.tree_slots[tree_start + node]) for node, is_one in enumerate(is_ancestor) if is_one)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("has_alibi", "window"), [(False, None), (True, 13)])
def test_is_as_exact_as_torch(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], has_alibi: bool, window: int | None
) -> None:
    batch = random_batch(random.Random(heads[2]))
    case = Case(batch, heads, dtype, device)
    found = case.run(batch, has_alibi=has_alibi, window=window)
    slopes = case.slopes if has_alibi else None
    exact = reference.tree_attention(case.queries, *case.caches, batch, case.scale, slopes, window)
    assert_as_exact_as_torch(found, case.in_torch(batch, window, has_alibi), exact)


def long_batch(context_len: int, num_nodes: int) -> AttentionBatch:
    """A tree after a context of several splits."""
    rng = random.Random(context_len)
    slots = rng.sample(range(NUM_SLOTS), NUM_SLOTS)
    builder = BatchBuilder()
    context = [slots.pop() for _ in range(context_len)]
    builder.add(context, (), random_tree(rng, num_nodes, slots))
    return builder.build().attention


@pytest.mark.parametrize("context_len", [253, 1024, 2300])
@pytest.mark.parametrize("window", [None, 30])
def test_splits_are_put_together(device: torch.device, context_len: int, window: int | None) -> None:
    batch = long_batch(context_len, 20)
    case = Case(batch, (2, 1, 64), torch.bfloat16, device)
    found = case.run(batch, window=window)
    exact = reference.tree_attention(case.queries, *case.caches, batch, case.scale, None, window)
    assert_as_exact_as_torch(found, case.in_torch(batch, window, has_alibi=False), exact)


@pytest.mark.parametrize("context_len", [700, 2040, 2300])
def test_splits_and_spans_give_the_same_bits(
    device: torch.device, context_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = long_batch(context_len, 20)
    case = Case(batch, (12, 2, 64), torch.bfloat16, device)
    found = []
    for num_processors, splits_per_item in ((1000, 1), (1, 8)):
        monkeypatch.setattr(attention, "num_processors", lambda _, number=num_processors: number)
        plan = AttentionPlan.of(batch, case.heads, 20, device)
        assert int(plan.numbers[2]) == splits_per_item
        found.append(case.run(batch))
    assert torch.equal(*found)
    exact = reference.tree_attention(case.queries, *case.caches, batch, case.scale)
    assert_as_exact_as_torch(found[0], case.in_torch(batch, None, has_alibi=False), exact)


@pytest.mark.parametrize("context_len", [0, 50, 500, 1022, 2040])
@pytest.mark.parametrize("heads", [(2, 2, 64), (40, 1, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trees_rows_have_the_bits_of_plain_sequences(
    device: torch.device, context_len: int, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    batch = long_batch(context_len, 24)
    case = Case(batch, heads, dtype, device)
    together = case.run(batch)
    for row in (0, 5, 11, 23):
        slots = row_slots(batch, row, 0)
        alone, in_chunk = BatchBuilder(), BatchBuilder()
        alone.add(slots[:-1], (), TreeRows([0], [-1], [slots[-1]]))
        in_chunk.add(slots, [0])
        for builder in (alone, in_chunk):
            assert torch.equal(case.run(builder.build().attention, slice(row, row + 1))[0], together[row])


def test_parts_are_put_together_in_levels(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """66 splits, 9 spans: the last of them alone in its group of eight."""
    rng = random.Random(0)
    builder = BatchBuilder()
    builder.add([rng.randrange(NUM_SLOTS) for _ in range(66 * 256 - 3)], (), TreeRows([0], [-1], [7]))
    batch = builder.build().attention
    case = Case(batch, (2, 1, 64), torch.float16, device)
    found = []
    for num_processors, num_items in ((1000, 66), (1, 9)):
        monkeypatch.setattr(attention, "num_processors", lambda _, number=num_processors: number)
        assert int(AttentionPlan.of(batch, case.heads, 1, device).numbers[0]) == num_items
        found.append(case.run(batch, num_blocks=5))  # that come to parts of all groups by turns
    assert torch.equal(*found)
    exact = reference.tree_attention(case.queries, *case.caches, batch, case.scale)
    assert_as_exact_as_torch(found[0], case.in_torch(batch, None, has_alibi=False), exact)


@pytest.mark.parametrize("heads", [(2, 1, head_dim) for head_dim in attention.HEAD_DIMS])
@pytest.mark.parametrize(("has_alibi", "window"), [(False, None), (True, 100)])
def test_shared_memory_and_blocks_change_no_bit(
    device: torch.device, heads: tuple[int, int, int], has_alibi: bool, window: int | None
) -> None:
    """As much as compute capability 8.6 has, 8.0 and 9.0: the number of stages; and blocks for few queries, and for many."""
    batch = long_batch(520, 8)
    case = Case(batch, heads, torch.bfloat16, device)
    expected = case.run(batch, has_alibi=has_alibi, window=window)
    available = attention.max_shared_bytes(device) // 1024
    for shared_kib in (99, 163, 227):
        if shared_kib > available or (heads[2] == 256 and shared_kib == 99):
            continue
        for num_fillers in (0, 64):
            found = case.run(batch, num_fillers=num_fillers, shared_kib=shared_kib, has_alibi=has_alibi, window=window)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("num_nodes", [3, 80])
def test_too_little_shared_memory_is_named(device: torch.device, num_nodes: int) -> None:
    batch = long_batch(10, num_nodes)
    case = Case(batch, (2, 1, 256), torch.bfloat16, device)
    with pytest.raises(RuntimeError, match=r"heads of size 256 needs 135168 bytes .*, this device has 101376"):
        case.run(batch, shared_kib=99)


@pytest.mark.parametrize("num_processors", [1000, 1])  # splits, spans
@pytest.mark.parametrize("num_nodes", [1, 24])
def test_handing_on_is_repeatable(
    device: torch.device, num_processors: int, num_nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that leave partial results to each other, side by side on a GPU, give the same bits every time."""
    on_gpu = device.type == "cuda"
    num_sequences, num_repeats, heads = (12, 400, (32, 8, 128)) if on_gpu else (2, 3, (4, 2, 64))
    rng = random.Random(0)
    builder = BatchBuilder()
    for sequence in range(num_sequences):
        context = [rng.randrange(NUM_SLOTS // 2) for _ in range(2300 + 700 * sequence)]
        slots = rng.sample(range(NUM_SLOTS // 2, NUM_SLOTS), num_nodes)
        builder.add(context, (), random_tree(rng, num_nodes, slots))
    batch = builder.build().attention
    case = Case(batch, heads, torch.bfloat16, device)
    queries = case.queries.to(device)
    k_cache, v_cache = (cache.to(device) for cache in case.caches)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "num_processors", lambda _: num_processors)
        plan = AttentionPlan.of(batch, case.heads, len(queries), device)
    assert int(plan.numbers[2]) == (1 if num_processors > 1 else 8)
    if on_gpu:  # more blocks than the patched number
        plan = replace(plan, num_blocks=2 * attention.num_processors(device))
    shape = (len(queries), case.num_heads * case.head_dim)
    expected = torch.full(shape, torch.nan, dtype=torch.bfloat16, device=device)
    tree_attention(queries, k_cache, v_cache, plan, case.scale, expected)
    assert not expected.isnan().any()
    num_different = torch.zeros((), dtype=torch.int64, device=device)
    for _ in range(num_repeats):
        plan.partials.fill_(torch.nan)
        out = torch.full_like(expected, torch.nan)
        tree_attention(queries, k_cache, v_cache, plan, case.scale, out)
        num_different += (out != expected).sum()
    assert int(num_different) == 0
    assert not plan.arrived.any()


def test_tensors_must_be_aligned(device: torch.device) -> None:
    batch = long_batch(10, 3)
    heads = AttentionHeads(2, 1, 64)
    plan = AttentionPlan.of(batch, heads, 3, device)
    out = torch.empty(3, 128, dtype=torch.bfloat16, device=device)
    for name, shape in (("queries", (3, 2, 64)), ("k_cache", (NUM_SLOTS, 1, 64)), ("v_cache", (NUM_SLOTS, 1, 64))):
        tensors = {
            "queries": torch.zeros(3, 2, 64, dtype=torch.bfloat16, device=device),
            "k_cache": torch.zeros(NUM_SLOTS, 1, 64, dtype=torch.bfloat16, device=device),
            "v_cache": torch.zeros(NUM_SLOTS, 1, 64, dtype=torch.bfloat16, device=device),
        }
        size = tensors[name].numel()
        tensors[name] = torch.zeros(size + 1, dtype=torch.bfloat16, device=device)[1:].view(shape)
        with pytest.raises(ValueError, match=f"{name} must begin at a multiple of 16 bytes"):
            tree_attention(**tensors, plan=plan, scale=1.0, out=out)


def test_other_sequences_change_no_bit(device: torch.device) -> None:
    rng = random.Random(0)
    slots = rng.sample(range(NUM_SLOTS), NUM_SLOTS)
    builder, own = BatchBuilder(), BatchBuilder()
    builder.add([slots.pop() for _ in range(600)], (), random_tree(rng, 9, slots))
    context, tree = [slots.pop() for _ in range(100)], random_tree(rng, 12, slots)
    for each in (builder, own):
        each.add(context, (), tree)
    batch = builder.build().attention
    case = Case(batch, (3, 1, 64), torch.float16, device)
    assert torch.equal(case.run(batch)[9:], case.run(own.build().attention, slice(9, 21)))


def test_malformed_batches_are_refused() -> None:
    batch = long_batch(10, 3)
    batch.row_masks[2, 0] = 1 << 7
    with pytest.raises(ValueError, match="a node that its tree doesn't have"):
        AttentionPlan.of(batch, AttentionHeads(2, 1, 64), 3, torch.device("cpu"))
    with pytest.raises(ValueError, match="3 heads can't be shared out to 2 KV heads"):
        AttentionPlan.of(long_batch(10, 3), AttentionHeads(3, 2, 64), 3, torch.device("cpu"))


@pytest.mark.parametrize("heads", [AttentionHeads(4, 1, 64), AttentionHeads(2, 2, 64), AttentionHeads(71, 1, 64)])
@pytest.mark.parametrize("seed", range(20))
def test_a_plan_fits_into_its_capacity(heads: AttentionHeads, seed: int) -> None:
    """Also where limits are what the batch takes."""
    rng = random.Random(seed)
    slots = rng.sample(range(20_000), 20_000)
    builder, num_used, longest = BatchBuilder(), 0, 0
    for _ in range(rng.choice([1, 3, 40])):
        context = [slots.pop() for _ in range(rng.choice([1, 70, 511, 2000]))]
        if rng.random() < 0.3:
            builder.add(context, [0] * rng.randint(1, len(context)))
        else:
            tree = random_tree(rng, rng.choice([1, 30, 200]), slots)
            builder.add(context, (), tree)
            num_used += len(tree.slots)
        num_used += len(context)
        longest = max(longest, len(context) + 200)
        if num_used > 9000:
            break
    batch = builder.build()
    capacity = PlanCapacity.of(heads, batch.num_rows, longest, num_used, 3)
    out = torch.empty(capacity.num_numbers, dtype=torch.int32)
    device = torch.device("cpu")
    num_numbers = write_plan(batch.rows, heads, out, capacity.num_split_items, device)
    plan = AttentionPlan.of(batch.attention, heads, batch.num_rows, device)
    assert torch.equal(out[:num_numbers], plan.numbers)
    num_items, num_tiles, splits_per_item, first_item, first_tile = out[:5].tolist()
    assert splits_per_item in (1, 8)
    items = out[first_item : first_item + 4 * num_items].view(num_items, 4)
    num_splits = out[first_tile : first_tile + 4 * num_tiles].view(num_tiles, 4)[:, 2]
    leaves_partials = num_splits[items[:, 0]] > 1
    num_split_items = int(leaves_partials.sum())
    assert leaves_partials[:num_split_items].all()
    assert num_split_items <= capacity.num_split_items
    with pytest.raises(ValueError, match="int32 numbers, and room for 9"):
        write_plan(batch.rows, heads, out[:9], num_split_items, device)
    if num_split_items:
        with pytest.raises(
            ValueError, match=f"{num_split_items} items that leave partial results, and room for {num_split_items - 1}"
        ):
            write_plan(batch.rows, heads, out, num_split_items - 1, device)
