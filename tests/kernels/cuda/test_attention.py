"""Tree attention for GPUs against float64, and rows whose bits depend on their keys' tokens and positions only."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from specgrove.kernels.cuda import attention
from specgrove.kernels.cuda.attention import AttentionPlan, tree_attention
from specgrove.kernels.device_memory import HEAD_DIMS, AttentionHeads
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.kernels.cuda.attention_cases import DTYPES, HEADS, NUM_SLOTS, Case, long_batch, row_slots
from tests.kernels.cuda.conftest import assert_as_exact_as_torch
from tests.kernels.test_attention import random_rows, random_tree
from tests.pairs import pairs

KINDS = [(dtype, heads, *sight) for dtype, heads, sight in pairs(DTYPES, HEADS, [(False, None), (True, 13)])]


@pytest.mark.parametrize(("dtype", "heads", "has_alibi", "window"), KINDS)
def test_is_as_exact_as_torch(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], has_alibi: bool, window: int | None
) -> None:
    batch = random_rows(random.Random(heads[2]))
    case = Case(batch, heads, dtype, device)
    found = case.run(batch, has_alibi=has_alibi, window=window)
    exact = case.exact(batch, window, has_alibi=has_alibi)
    assert_as_exact_as_torch(found, case.in_torch(batch, window, has_alibi), exact)


@pytest.mark.parametrize(("dtype", "heads", "has_alibi", "window"), [kind for kind in KINDS if kind[1] in HEADS[::2]])
def test_soft_capped_scores_are_as_exact_as_torch(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], has_alibi: bool, window: int | None
) -> None:
    batch = random_rows(random.Random(heads[2]))
    case = Case(batch, heads, dtype, device)
    found = case.run(batch, has_alibi=has_alibi, window=window, soft_cap=0.5)
    exact = case.exact(batch, window, has_alibi=has_alibi, soft_cap=0.5)
    assert (exact - case.exact(batch, window, has_alibi=has_alibi)).abs().max() > 0.05
    assert_as_exact_as_torch(found, case.in_torch(batch, window, has_alibi, 0.5), exact)


@pytest.mark.parametrize("context_len", [253, 1024, 2300])
@pytest.mark.parametrize("window", [None, 30])
def test_splits_are_put_together(device: torch.device, context_len: int, window: int | None) -> None:
    batch = long_batch(context_len, 20)
    case = Case(batch, (2, 1, 64), torch.bfloat16, device)
    found = case.run(batch, window=window)
    assert_as_exact_as_torch(found, case.in_torch(batch, window, has_alibi=False), case.exact(batch, window))


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
    assert_as_exact_as_torch(found[0], case.in_torch(batch, None, has_alibi=False), case.exact(batch))


FEW_HEADS, MANY_HEADS = (2, 2, 64), (40, 1, 64)


@pytest.mark.parametrize(
    ("context_len", "heads", "dtype"),
    [
        (0, MANY_HEADS, torch.bfloat16),
        (50, FEW_HEADS, torch.float16),
        (500, FEW_HEADS, torch.bfloat16),
        (500, MANY_HEADS, torch.bfloat16),
        (2040, FEW_HEADS, torch.bfloat16),
        (2040, FEW_HEADS, torch.float16),
    ],
)
def test_a_trees_rows_have_the_bits_of_plain_sequences(
    device: torch.device, context_len: int, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    batch = long_batch(context_len, 24)
    case = Case(batch, heads, dtype, device)
    together = case.run(batch)
    for row in (0, 5, 11, 23):
        slots = row_slots(batch, row, 0)
        alone, in_chunk = PassBuilder(), PassBuilder()
        alone.add(slots[:-1], (), TreeRows([0], [-1], [slots[-1]]))
        in_chunk.add(slots, [0])
        for builder in (alone, in_chunk):
            assert torch.equal(case.run(builder.build(), slice(row, row + 1))[0], together[row])


def test_parts_are_put_together_in_levels(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """66 splits, 9 spans: the last of them alone in its group of eight."""
    rng = random.Random(0)
    builder = PassBuilder()
    builder.add([rng.randrange(NUM_SLOTS) for _ in range(66 * 256 - 3)], (), TreeRows([0], [-1], [7]))
    batch = builder.build()
    case = Case(batch, (2, 1, 64), torch.float16, device)
    found = []
    for num_processors, num_items in ((1000, 66), (1, 9)):
        monkeypatch.setattr(attention, "num_processors", lambda _, number=num_processors: number)
        assert int(AttentionPlan.of(batch, case.heads, 1, device).numbers[0]) == num_items
        found.append(case.run(batch, num_blocks=5))  # that come to parts of all groups by turns
    assert torch.equal(*found)
    assert_as_exact_as_torch(found[0], case.in_torch(batch, None, has_alibi=False), case.exact(batch))


@pytest.mark.parametrize("heads", [(2, 1, head_dim) for head_dim in HEAD_DIMS])
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
    num_sequences, num_repeats, heads = (12, 400, (32, 8, 128)) if on_gpu else (2, 1, (2, 1, 64))
    rng = random.Random(0)
    builder = PassBuilder()
    for sequence in range(num_sequences):
        context = [rng.randrange(NUM_SLOTS // 2) for _ in range(2300 + 700 * sequence)]
        slots = rng.sample(range(NUM_SLOTS // 2, NUM_SLOTS), num_nodes)
        builder.add(context, (), random_tree(rng, num_nodes, slots))
    batch = builder.build()
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
    builder, own = PassBuilder(), PassBuilder()
    builder.add([slots.pop() for _ in range(600)], (), random_tree(rng, 9, slots))
    context, tree = [slots.pop() for _ in range(100)], random_tree(rng, 12, slots)
    for each in (builder, own):
        each.add(context, (), tree)
    batch = builder.build()
    case = Case(batch, (3, 1, 64), torch.float16, device)
    assert torch.equal(case.run(batch)[9:], case.run(own.build(), slice(9, 21)))
