"""The property that everything else rests on: a row's bits depend on nothing but its keys by position."""

from __future__ import annotations

from array import array

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels import threads
from specgrove.kernels.rows import PassRows
from specgrove.kernels.trees import ancestor_masks
from tests.kernels.examples import examples
from tests.kernels.one_op import attend, in_float64
from tests.kernels.test_attention import ROUNDING_ISAS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS = [(4, 4, 8), (6, 2, 40), (9, 3, 64), (5, 1, 128), (2, 1, 256), (3, 3, 18), (71, 1, 64), (2, 2, 75)]
WINDOWS = [None, 1, 5, 32, 47, 64]


def rows_of(
    sequences: list[tuple[list[int], list[int], list[int]]],
    rows: list[tuple[int, int, int | None]],
) -> PassRows:
    """Sequences as (context slots, tree slots, parents), rows as (sequence, context length seen, tree node or None)."""
    max_num_nodes = max(1, *(len(parents) for _, _, parents in sequences))
    num_words = -(-max_num_nodes // 64)
    found = PassRows(row_masks=array("q", bytes(8 * num_words * len(rows))))
    for context, tree, _ in sequences:
        found.context_slots.extend(context)
        found.context_offsets.append(len(found.context_slots))
        found.tree_slots.extend(tree)
        found.tree_offsets.append(len(found.tree_slots))
    for row, (sequence, context_len, node) in enumerate(rows):
        found.token_ids.append(0)
        found.positions.append(0)
        found.slots.append(0)
        found.row_seq.append(sequence)
        found.row_context_len.append(context_len)
        if node is not None:
            masks = array("q", ancestor_masks(sequences[sequence][2]))
            own_words = len(masks) // len(sequences[sequence][2])
            words = masks[node * own_words : (node + 1) * own_words]
            found.row_masks[row * num_words : row * num_words + own_words] = words
    return found


def caches_of(
    num_slots: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values."""
    keys, values = torch.randn(2, num_slots, num_kv_heads, head_dim).to(dtype).unbind()
    return keys.contiguous(), values.contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(
    heads=st.sampled_from(HEADS),
    seed=st.integers(0, 10_000),
    sequence_len=st.one_of(st.integers(2, 110), st.integers(250, 600)),
    path_len=st.integers(1, 40),
    has_alibi=st.booleans(),
    window=st.sampled_from(WINDOWS),
)
def test_a_tree_node_has_the_bits_of_the_same_tokens_as_a_sequence(
    isa: str,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    seed: int,
    sequence_len: int,
    path_len: int,
    has_alibi: bool,
    window: int | None,
) -> None:
    """Among other branches, in any order of slots, at any split between context and tree, with any number of threads."""
    torch.manual_seed(seed)
    num_heads, num_kv_heads, head_dim = heads
    path_len = min(path_len, sequence_len - 1)
    keys, values = caches_of(sequence_len, num_kv_heads, head_dim, dtype)
    query, scale = torch.randn(1, num_heads, head_dim), head_dim**-0.5
    alibi = torch.rand(num_heads) if has_alibi else None
    threads.set_num_threads(1)
    plain = rows_of([(list(range(sequence_len)), [], [])], [(0, sequence_len, None)])
    wanted = attend(query, keys, values, plain, scale, alibi, window)

    # The path's nodes stand anywhere among 90 nodes of other branches, and all keys in any slot.
    num_nodes = path_len + 90
    on_path = sorted(torch.randperm(num_nodes)[:path_len].tolist())
    parents: list[int] = []
    for node in range(num_nodes):
        before = [other for other in on_path if other < node]
        is_on_path = node in on_path
        parents.append((before[-1] if before else -1) if is_on_path else int(torch.randint(-1, node, ())))
    slots = torch.randperm(sequence_len + 90).tolist()
    context_len = sequence_len - path_len
    context_slots, tree_slots = slots[:context_len], slots[context_len:]
    k_cache, v_cache = caches_of(len(slots), num_kv_heads, head_dim, dtype)
    places = context_slots + [tree_slots[node] for node in on_path]
    k_cache[places], v_cache[places] = keys, values
    count = int(torch.randint(1, 65, ()))
    rows: list[tuple[int, int, int | None]] = [
        (0, context_len, int(torch.randint(0, num_nodes, ()))) for _ in range(count)
    ]
    place = int(torch.randint(0, count, ()))
    rows[place] = (0, context_len, on_path[-1])
    queries = torch.randn(count, num_heads, head_dim)
    queries[place] = query[0]
    batch = rows_of([(context_slots, tree_slots, parents)], rows)
    for num_threads in (1, 2, 5):
        threads.set_num_threads(num_threads)
        out = attend(queries, k_cache, v_cache, batch, scale, alibi, window)
        assert torch.equal(out[place], wanted[0])


@examples(10)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(2, 110),
    heads=st.sampled_from(HEADS),
    has_alibi=st.booleans(),
    window=st.sampled_from(WINDOWS),
)
def test_any_chunking_of_a_prompt_gives_the_same_bits(
    isa: str, seed: int, num_rows: int, heads: tuple[int, int, int], has_alibi: bool, window: int | None
) -> None:
    """All rows at once, row by row, and in chunks of any length."""
    torch.manual_seed(seed)
    num_heads, num_kv_heads, head_dim = heads
    k_cache, v_cache = caches_of(num_rows, num_kv_heads, head_dim, torch.bfloat16)
    queries, alibi = torch.randn(num_rows, num_heads, head_dim), torch.rand(num_heads) if has_alibi else None
    sequence = [(torch.randperm(num_rows).tolist(), list[int](), list[int]())]

    def run(start: int, end: int) -> torch.Tensor:
        batch = rows_of(sequence, [(0, row + 1, None) for row in range(start, end)])
        return attend(queries[start:end].contiguous(), k_cache, v_cache, batch, 0.3, alibi, window)

    whole = run(0, num_rows)
    threads.set_num_threads(2)
    assert torch.equal(torch.cat([run(row, row + 1) for row in range(num_rows)]), whole)
    cut = int(torch.randint(1, num_rows, ()))
    assert torch.equal(torch.cat([run(0, cut), run(cut, num_rows)]), whole)


@pytest.mark.parametrize("heads", [(2, 2, 64), (9, 3, 64), (12, 2, 128)])
def test_a_row_has_the_same_bits_in_any_number_of_rows(isa: str, heads: tuple[int, int, int]) -> None:
    """1 to 64 rows and a prompt's chunk of 512, by one thread and two."""
    torch.manual_seed(0)
    num_heads, num_kv_heads, head_dim = heads
    k_cache, v_cache = caches_of(600, num_kv_heads, head_dim, torch.bfloat16)
    queries = torch.randn(600, num_heads, head_dim)
    sequence = [(torch.randperm(600).tolist(), list[int](), list[int]())]

    def run(rows: range) -> torch.Tensor:
        batch = rows_of(sequence, [(0, row + 1, None) for row in rows])
        return attend(queries[rows.start : rows.stop], k_cache, v_cache, batch, head_dim**-0.5)

    whole = run(range(88, 600))
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        for num_rows in (1, 2, 7, 16, 33, 64):
            start = int(torch.randint(88, 600 - num_rows, ()))
            assert torch.equal(run(range(start, start + num_rows)), whole[start - 88 : start - 88 + num_rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 13])
@pytest.mark.parametrize("is_tree", [False, True])
def test_an_infinite_value_is_infinite_for_the_rows_that_see_it(
    isa: str, dtype: torch.dtype, window: int | None, is_tree: bool
) -> None:
    """At either edge of what a row sees of a chunk too: no place that is there for the chunk's length alone makes it NaN."""
    torch.manual_seed(0)
    keys, values = caches_of(80, 2, 40, dtype)
    context, tree = (list(range(40)), list(range(40, 45))) if is_tree else (list(range(45)), list[int]())
    node = 4 if is_tree else None
    batch = rows_of([(context, tree, [-1, 0, 1, 2, 3] if is_tree else [])], [(0, len(context), node)] * 2)
    queries = torch.randn(2, 4, 40)
    wanted = attend(queries, keys, values, batch, 0.2, window=window)
    first = 0 if window is None else 45 - window
    for place in (first, first + 1, 31, 32, 43, 44):
        if place < first:
            continue
        spoilt = values.clone()
        spoilt[place, :, 3] = -torch.inf
        out = attend(queries, keys, spoilt, batch, 0.2, window=window)
        expected = wanted.view(2, 4, 40).clone()
        expected[:, :, 3] = -torch.inf
        assert torch.equal(out.view(2, 4, 40), expected)


@pytest.mark.parametrize("worst", [float("inf"), float("nan")])
def test_an_infinity_spoils_only_rows_that_see_it(isa: str, worst: float) -> None:
    """In a chunk that rows share but see parts of, in an ancestor of some nodes, and before a window."""
    torch.manual_seed(0)
    k_cache, v_cache = caches_of(100, 2, 40, torch.bfloat16)
    parents = [-1, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7]
    depths = [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    rows: list[tuple[int, int, int | None]] = [(0, seen, None) for seen in range(40, 61)]
    # Deep nodes first: what they leave in a chunk of their own lies behind the last key of those that follow.
    rows += [(0, 60, node) for node in reversed(range(12))]
    batch = rows_of([(list(range(60)), list(range(60, 72)), parents)], rows)
    queries = torch.randn(len(rows), 4, 40)

    def sees(row: tuple[int, int, int | None], slot: int, window: int) -> bool:
        _, context_len, node = row
        if slot >= 60:
            return slot == 63 and node in (3, 7, 11)
        end = context_len if node is None else 61 + depths[node]
        return end - window <= slot < context_len

    for window in (9, 1000):
        wanted = attend(queries, k_cache, v_cache, batch, 0.2, window=window)
        for slot in (50, 63):
            spoilt = v_cache.clone()
            spoilt[slot] = worst
            out = attend(queries, k_cache, spoilt, batch, 0.2, window=window)
            seen = torch.tensor([sees(row, slot, window) for row in rows])
            assert torch.equal(~out.isfinite().all(dim=1), seen)
            assert torch.equal(out[~seen], wanted[~seen])


def test_what_a_row_does_not_see_does_not_matter(isa: str) -> None:
    """NaN in every other slot, as in memory that was never written."""
    torch.manual_seed(0)
    k_cache, v_cache = caches_of(100, 2, 40, torch.float16)
    batch = rows_of([(list(range(10, 50)), [60, 61, 62], [-1, 0, 0])], [(0, 40, 2), (0, 37, None)])
    queries = torch.randn(2, 4, 40)
    wanted = attend(queries, k_cache, v_cache, batch, 0.2)
    unseen = [slot for slot in range(100) if not (10 <= slot < 50 or slot in (60, 62))]
    k_cache[unseen] = v_cache[unseen] = float("nan")
    assert torch.equal(attend(queries, k_cache, v_cache, batch, 0.2), wanted)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 30, 31, 40])
def test_what_lies_before_the_window_does_not_matter(isa: str, window: int) -> None:
    """Three rows of 75, 74 and 70 keys in one tile; NaN where none of them looks."""
    torch.manual_seed(0)
    k_cache, v_cache = caches_of(100, 2, 40, torch.float16)
    batch = rows_of([(list(range(73)), [80, 81, 82], [-1, 0, 0])], [(0, 73, 2), (0, 73, 0), (0, 70, None)])
    queries, alibi = torch.randn(3, 4, 40), torch.rand(4)
    wanted = attend(queries, k_cache, v_cache, batch, 0.2, alibi, window)
    k_cache[: 70 - window] = v_cache[: 70 - window] = float("nan")
    assert torch.equal(attend(queries, k_cache, v_cache, batch, 0.2, alibi, window), wanted)
    # A row alone: NaN in what only the others see.
    k_cache[: 75 - window] = v_cache[: 75 - window] = float("nan")
    alone = rows_of([(list(range(73)), [80, 81, 82], [-1, 0, 0])], [(0, 73, 2)])
    assert torch.equal(attend(queries[:1], k_cache, v_cache, alone, 0.2, alibi, window), wanted[:1])


def test_a_window_over_all_keys_changes_no_bit(isa: str) -> None:
    torch.manual_seed(0)
    k_cache, v_cache = caches_of(100, 2, 40, torch.bfloat16)
    batch = rows_of([(list(range(73)), [80, 81], [-1, 0])], [(0, 73, 1), (0, 40, None)])
    queries = torch.randn(2, 4, 40)
    wanted = attend(queries, k_cache, v_cache, batch, 0.2)
    for window in (75, 2**40):
        assert torch.equal(attend(queries, k_cache, v_cache, batch, 0.2, window=window), wanted)
    assert not torch.equal(attend(queries, k_cache, v_cache, batch, 0.2, window=74), wanted)


def test_large_scores_do_not_overflow(isa: str) -> None:
    """The key with the largest score takes all, in the first chunk or in a later one."""
    k_cache, v_cache = caches_of(70, 1, 64, torch.float32)
    for best in (3, 69):
        k_cache.fill_(-10.0)
        k_cache[best] = 10.0
        batch = rows_of([(list(range(70)), [], [])], [(0, 70, None)])
        out = attend(torch.full((1, 2, 64), 10.0), k_cache, v_cache, batch, 1.0)
        assert torch.equal(out.view(2, 64), v_cache[best].expand(2, 64))


@pytest.mark.parametrize(
    ("num_keys", "window"),
    [
        (256, None),
        (256, 250),
        (257, None),
        (257, 1),
        (300, 250),
        (300, 300),
        (700, None),
        (700, 1),
        (700, 300),
        (700, 512),
    ],
)
def test_segments_that_are_computed_side_by_side_change_no_bit(isa: str, num_keys: int, window: int | None) -> None:
    """A single row's segments are shared out among threads, those of many rows are not."""
    k_cache, v_cache = caches_of(num_keys, 3, 40, torch.bfloat16)
    queries, alibi = torch.randn(70, 9, 40), torch.rand(9)
    sequence = [(torch.randperm(num_keys).tolist(), list[int](), list[int]())]

    def run(rows: range) -> torch.Tensor:
        batch = rows_of(sequence, [(0, num_keys - row, None) for row in rows])
        return attend(queries[rows.start : rows.stop], k_cache, v_cache, batch, 0.3, alibi, window)

    together = run(range(70))
    some = range(0, 70, 6)
    alone = torch.cat([run(range(row, row + 1)) for row in some])
    assert torch.equal(alone, together[::6])
    batch = rows_of(sequence, [(0, num_keys - row, None) for row in range(70)])
    expected = attend(queries, k_cache, v_cache, batch, 0.3, alibi, window, in_float64)
    assert (together - expected).abs().max() <= (2e-2 if isa in ROUNDING_ISAS else 2e-5)
    threads.set_num_threads(1)
    assert torch.equal(torch.cat([run(range(row, row + 1)) for row in some]), alone)
