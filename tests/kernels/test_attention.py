"""Tree attention against float64, and the promise it makes: a tree's row has the bits of the same plain sequence."""

from __future__ import annotations

import functools
import random
from array import array
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.kernels import threads
from specgrove.kernels.rows import PassRows, plain_rows
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.kernels.one_op import attend, in_float32, in_float64, rotate_store
from tests.pairs import pairs

NUM_SLOTS = 400
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING_ISAS = ("avx512", "amx", "amx_twin")  # queries and weights are bfloat16 there where the cache is


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def random_tree(rng: random.Random, num_nodes: int, slots: list[int]) -> TreeRows:
    parents = [-1, *(rng.randrange(max(0, node - 6), node) for node in range(1, num_nodes))]
    return TreeRows([0] * num_nodes, parents, [slots.pop() for _ in range(num_nodes)])


def random_rows(rng: random.Random) -> PassRows:
    """Several sequences: prompt chunks, trees (one of more than 64 nodes), and both."""
    slots = list(range(NUM_SLOTS))
    rng.shuffle(slots)
    builder = PassBuilder()
    for context_len, chunk_len, num_nodes in ((0, 0, 5), (70, 9, 0), (33, 0, 70), (1, 1, 1), (40, 8, 12)):
        context = [slots.pop() for _ in range(context_len)]
        tree = random_tree(rng, num_nodes, slots) if num_nodes else None
        builder.add(context, [0] * chunk_len, tree)
    return builder.build()


def random_caches(dtype: torch.dtype, num_kv_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (NUM_SLOTS, num_kv_heads, head_dim)
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


Heads = tuple[int, int, int]  # number of heads, of KV heads, and their size
Others = tuple[PassRows, float, torch.Tensor | None, int | None]


def seeded_inputs(
    heads: Heads, has_alibi: bool, window: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Others]:
    """Arguments of ``tree_attention``, with caches in float32; the same each time."""
    num_heads, num_kv_heads, head_dim = heads
    torch.manual_seed(head_dim)
    rows = random_rows(random.Random(head_dim))
    keys, values = random_caches(torch.float32, num_kv_heads, head_dim)
    queries = torch.randn(rows.num_rows, num_heads, head_dim)
    slopes = torch.rand(num_heads) if has_alibi else None
    return queries, keys, values, (rows, head_dim**-0.5, slopes, window)


@functools.cache
def exact_outputs(dtype: torch.dtype, heads: Heads, has_alibi: bool, window: int | None) -> tuple[torch.Tensor, float]:
    """In float64, of caches in ``dtype``, and how far rounding the caches has moved them; once for all instruction sets."""
    queries, keys, values, others = seeded_inputs(heads, has_alibi, window)
    expected = attend(queries, keys.to(dtype), values.to(dtype), *others, on=in_float64)
    if dtype != torch.bfloat16:
        return expected.float(), 0.0
    return expected.float(), rms(attend(queries, keys, values, *others, on=in_float64) - expected)


HEADS = [
    (6, 2, 8),
    (3, 3, 16),
    (9, 3, 64),
    (71, 1, 64),
    (4, 1, 40),
    (2, 1, 75),
    (4, 2, 80),
    (4, 4, 96),
    (2, 2, 128),
    (8, 1, 256),
]
SIGHTS = [(False, None), (True, None), (False, 1), (False, 40), (True, 13)]


@pytest.mark.parametrize(
    ("heads", "has_alibi", "window", "dtype"),
    [(heads, *sight, dtype) for heads, sight, dtype in pairs(HEADS, SIGHTS, DTYPES)],
)
def test_equals_float64(isa: str, dtype: torch.dtype, heads: Heads, has_alibi: bool, window: int | None) -> None:
    queries, keys, values, others = seeded_inputs(heads, has_alibi, window)
    expected, rounding = exact_outputs(dtype, heads, has_alibi, window)
    error = attend(queries, keys.to(dtype), values.to(dtype), *others) - expected
    if dtype == torch.bfloat16 and isa in ROUNDING_ISAS:
        # No more is lost than by rounding keys and values when they were stored.
        assert rms(error) <= rounding
        assert error.abs().max() <= 2e-2
    else:
        assert error.abs().max() <= 5e-6


@pytest.mark.parametrize(
    ("dtype", "heads", "has_alibi", "window"),
    [
        (dtype, heads, *sight)
        for dtype, heads, sight in pairs(DTYPES, [(6, 2, 8), (2, 1, 75), (8, 1, 256)], [(False, None), (True, 13)])
    ],
)
def test_soft_capped_scores(isa: str, dtype: torch.dtype, heads: Heads, has_alibi: bool, window: int | None) -> None:
    """As exact as without a cap, which changes much here: scores go beyond 1."""
    queries, keys, values, others = seeded_inputs(heads, has_alibi, window)
    keys, values = keys.to(dtype), values.to(dtype)
    expected = attend(queries, keys, values, *others, on=in_float64, soft_cap=0.5).float()
    found = attend(queries, keys, values, *others, soft_cap=0.5)
    assert (expected - attend(queries, keys, values, *others)).abs().max() > 0.05
    is_rounded = dtype == torch.bfloat16 and isa in ROUNDING_ISAS
    assert (found - expected).abs().max() <= (2e-2 if is_rounded else 5e-6)
    if is_rounded:
        assert rms(found - expected) <= exact_outputs(dtype, heads, has_alibi, window)[1]


@pytest.mark.usefixtures("on_amx")
def test_the_twin_of_amx_has_its_bits() -> None:
    """Trees, prompts, windows, ALiBi and soft caps; large scores and small ones."""
    for num_heads, num_kv_heads, head_dim in ((9, 3, 64), (4, 1, 75), (12, 2, 128), (20, 1, 80)):
        rows = random_rows(random.Random(head_dim))
        caches = random_caches(torch.bfloat16, num_kv_heads, head_dim)
        queries = torch.randn(rows.num_rows, num_heads, head_dim)
        for scale, window, soft_cap in ((0.1, None, None), (3.0, 20, None), (1e-3, None, None), (0.3, 20, 2.0)):
            arguments = (queries, *caches, rows, scale, torch.rand(num_heads), window)
            threads.set_isa("amx")
            wanted = attend(*arguments, soft_cap=soft_cap)
            threads.set_isa("amx_twin")
            assert torch.equal(attend(*arguments, soft_cap=soft_cap), wanted)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES), soft_cap=st.sampled_from([None, 0.7]))
def test_a_trees_rows_have_the_bits_of_plain_sequences(seed: int, dtype: torch.dtype, soft_cap: float | None) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    num_heads, num_kv_heads, head_dim = 6, 2, 24
    k_cache, v_cache = random_caches(dtype, num_kv_heads, head_dim)
    slots = list(range(NUM_SLOTS))
    rng.shuffle(slots)
    context = [slots.pop() for _ in range(rng.randrange(90))]
    tree = random_tree(rng, rng.randrange(1, 80), slots)
    num_nodes = len(tree.slots)
    queries = torch.randn(num_nodes, num_heads, head_dim)
    builder = PassBuilder()
    builder.add(context, (), tree)
    together = attend(queries, k_cache, v_cache, builder.build(), 0.3, soft_cap=soft_cap)
    for node in rng.sample(range(num_nodes), min(num_nodes, 6)):
        path: list[int] = []
        ancestor = node
        while ancestor >= 0:
            path.insert(0, tree.slots[ancestor])
            ancestor = tree.parents[ancestor]
        alone = PassBuilder()
        alone.add([*context, *path], [0])
        threads.set_num_threads(rng.choice((1, 2)))
        row = attend(queries[node : node + 1], k_cache, v_cache, alone.build(), 0.3, soft_cap=soft_cap)
        assert torch.equal(row[0], together[node])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("head_dim", "is_rotated"),
    [(8, True), (16, True), (64, True), (80, True), (96, True), (128, True), (256, True), (64, False), (75, False)],
)
def test_rotate_and_store(isa: str, dtype: torch.dtype, head_dim: int, is_rotated: bool) -> None:
    num_heads, num_kv_heads, num_rows = 6, 2, 9
    qkv = torch.randn(num_rows, (num_heads + 2 * num_kv_heads) * head_dim)
    angles = torch.rand(50, head_dim // 2) * 6
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1) if is_rotated else None
    positions = torch.randint(0, 50, (num_rows,)).tolist()
    slots = torch.randperm(NUM_SLOTS)[:num_rows].tolist()
    ours, theirs = random_caches(dtype, num_kv_heads, head_dim), random_caches(dtype, num_kv_heads, head_dim)
    for mine, other in zip(ours, theirs, strict=True):
        other.copy_(mine)
    found = rotate_store(qkv, positions, cos_sin, slots, *ours)
    expected = rotate_store(qkv, positions, cos_sin, slots, *theirs, on=in_float32)
    assert torch.equal(found, expected)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    for row in range(num_rows):
        alone = rotate_store(qkv[row : row + 1], positions[row : row + 1], cos_sin, slots[row : row + 1], *theirs)
        assert torch.equal(alone, found[row : row + 1])
    assert torch.equal(ours[0], theirs[0])


def test_slots_and_positions_out_of_range_are_named_and_write_nothing() -> None:
    qkv, cos_sin = torch.randn(2, (2 + 2 * 2) * 8), torch.randn(50, 8)
    caches = random_caches(torch.bfloat16, 2, 8)
    before = [cache.clone() for cache in caches]
    with pytest.raises(ValueError, match=f"slots must be from 0 to {NUM_SLOTS - 1}, got {NUM_SLOTS}"):
        rotate_store(qkv, [0, 1], cos_sin, [3, NUM_SLOTS], *caches)
    with pytest.raises(ValueError, match="positions must be from 0 to 49, got -1"):
        rotate_store(qkv, [0, -1], cos_sin, [0, 1], *caches)
    with pytest.raises(ValueError, match=f"slots must be from 0 to {NUM_SLOTS - 1}, got -1"):
        rotate_store(qkv, [0, -1], None, [0, -1], *caches)
    assert all(torch.equal(cache, old) for cache, old in zip(caches, before, strict=True))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("context_offsets", [0, 2], "context_offsets don't fit"),
        ("tree_offsets", [0, 1], "tree_offsets don't fit"),
        ("row_seq", [1], "row_seq names a sequence"),
        ("row_context_len", [4], "row_context_len is longer"),
        ("row_masks", [4], "row_masks name a node"),
        ("row_masks", [0], "must see at least one key"),
        ("tree_slots", [-1, 5], "slots must not be negative"),
    ],
)
def test_rows_that_do_not_fit_together_are_named(field: str, value: list[int], complaint: str) -> None:
    rows = replace(
        plain_rows(1),
        context_slots=array("i", [0, 1, 2]),
        context_offsets=array("i", [0, 3]),
        tree_slots=array("i", [3, 4]),
        tree_offsets=array("i", [0, 2]),
        row_context_len=array("i", [0]),
        row_masks=array("q", [3]),
    )
    queries = torch.randn(1, 1, 8)
    caches = torch.randn(2, 5, 1, 8)
    attend(queries, caches[0], caches[1], rows, 1.0)
    with pytest.raises(ValueError, match="a slot that the cache doesn't have"):
        attend(queries, caches[0, :4], caches[1, :4], rows, 1.0)
    wrong = replace(rows, **{field: array(getattr(rows, field).typecode, value)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=complaint):
        attend(queries, caches[0], caches[1], wrong, 1.0)
