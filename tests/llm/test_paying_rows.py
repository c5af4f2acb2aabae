"""Which nodes are worth their rows: the best of all sessions together, as far as the pass's tokens per millisecond rise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.paying_rows import PayingRows
from specgrove.loop.token_tree import TokenTree

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
PassMs = Callable[[int], float]
CHEAP: PassMs = lambda rows: 10 + 0.01 * rows  # noqa: E731
DEAR: PassMs = lambda rows: 3 + 0.6 * rows  # noqa: E731
TILES: PassMs = lambda rows: 10 * (1 + 0.05 * math.ceil(rows / 8))  # noqa: E731


def paying(pass_ms: PassMs, num_seen: int = 30) -> PayingRows:
    """That has seen passes of all sizes, one right after the other."""
    rows = PayingRows()
    for _ in range(num_seen):
        for num_rows in SIZES:
            rows.observe(num_rows, pass_ms(num_rows), 0.0)
    return rows


def chain(*probs: float) -> TokenTree:
    nodes = range(len(probs) + 1)
    return TokenTree(
        tuple(nodes),
        tuple(node - 1 for node in nodes),
        (0.0, *map(math.log, probs)),
        (0, *[1] * len(probs)),
    )


def select(rows: PayingRows, trees: Sequence[TokenTree], num_other_rows: int = 0) -> list[list[int]]:
    return rows.select(trees, num_other_rows, 0.0, is_busy=False)


@st.composite
def trees_of_sessions(draw: st.DrawFn) -> list[TokenTree]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        num_nodes = draw(st.integers(1, 20))
        parents = [-1] + [draw(st.integers(0, node - 1)) for node in range(1, num_nodes)]
        log_probs = [0.0] + [-draw(st.integers(0, 30)) / 8 for _ in range(1, num_nodes)]
        found.append(TokenTree(tuple(range(num_nodes)), tuple(parents), tuple(log_probs), (0,) * num_nodes))
    return found


@settings(max_examples=80, deadline=None)
@given(trees_of_sessions(), st.sampled_from([CHEAP, DEAR, TILES]), st.integers(0, 50))
def test_what_is_kept_is_the_best_of_all_and_a_tree(
    trees: list[TokenTree], pass_ms: PassMs, num_other_rows: int
) -> None:
    kept = select(paying(pass_ms, 5), trees, num_other_rows)
    worst_kept, best_left_out = 0.0, -math.inf
    for tree, nodes in zip(trees, kept, strict=True):
        assert nodes == sorted(set(nodes))
        assert nodes[0] == 0
        assert all(tree.parents[node] in nodes for node in nodes[1:])
        scores = tree.path_log_probs()
        worst_kept = min([worst_kept, *(scores[node] for node in nodes)])
        best_left_out = max([best_left_out, *(scores[node] for node in range(tree.num_nodes) if node not in nodes)])
    assert best_left_out <= worst_kept + 1e-12


@settings(max_examples=60, deadline=None)
@given(trees_of_sessions(), st.sampled_from([CHEAP, DEAR, TILES]), st.randoms())
def test_the_order_of_sessions_changes_nothing(trees: list[TokenTree], pass_ms: PassMs, order: random.Random) -> None:
    places = order.sample(range(len(trees)), len(trees))
    kept, shuffled = select(paying(pass_ms, 5), trees), select(paying(pass_ms, 5), [trees[place] for place in places])
    # Of nodes that are equally probable it may be another session's turn.
    assert sum(map(len, kept)) == sum(map(len, shuffled))


def tokens_per_ms(trees: Sequence[TokenTree], kept: Sequence[Sequence[int]], pass_ms: PassMs) -> float:
    num_tokens = float(len(trees))
    for tree, nodes in zip(trees, kept, strict=True):
        scores = tree.path_log_probs()
        num_tokens += sum(math.exp(scores[node]) for node in nodes[1:])
    return num_tokens / pass_ms(sum(map(len, kept)))


@pytest.mark.parametrize("pass_ms", [CHEAP, DEAR, TILES])
@pytest.mark.parametrize("num_sessions", [1, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_nodes_has_many_more_tokens_per_millisecond(
    pass_ms: PassMs, num_sessions: int, seed: int
) -> None:
    """Against every number of best nodes, and chains of every length."""
    generator = random.Random(seed)
    trees = [chain(*(generator.uniform(0.05, 0.95) for _ in range(8))) for _ in range(num_sessions)]
    found = tokens_per_ms(trees, select(paying(pass_ms), trees), pass_ms)
    entries = sorted(
        (-score, index, node)
        for index, tree in enumerate(trees)
        for node, score in enumerate(tree.path_log_probs())
        if node
    )
    for num_kept in range(len(entries) + 1):
        kept: list[list[int]] = [[0] for _ in trees]
        for _, index, node in entries[:num_kept]:
            kept[index].append(node)
        assert found > 0.95 * tokens_per_ms(trees, kept, pass_ms)
    for length in range(9):
        assert found > 0.95 * tokens_per_ms(trees, [list(range(length + 1)) for _ in trees], pass_ms)


def test_dear_rows_leave_out_what_cheap_ones_keep() -> None:
    tree = chain(0.7, 0.5, 0.4)
    assert select(paying(CHEAP), [tree]) == [[0, 1, 2, 3]]
    assert len(select(paying(DEAR), [tree])[0]) < 4
    # With seven others the weights are shared already, and a row lengthens all their steps.
    others = [chain(0.2)] * 7
    assert select(paying(DEAR), [chain(0.2, 0.2), *others])[0] == [0]


def test_what_a_prompt_in_the_pass_takes_is_no_reason_to_keep_more() -> None:
    tree = chain(*[0.6] * 8)
    alone, beside = select(paying(DEAR), [tree]), select(paying(DEAR), [tree], 200)
    assert abs(len(alone[0]) - len(beside[0])) <= 1


def test_time_between_passes_makes_rows_worth_more() -> None:
    tree, rows = chain(*[0.6] * 8), paying(DEAR)
    at_once = len(rows.select([tree], 0, 0.0, is_busy=False)[0])
    for _ in range(60):
        rows.observe(8, DEAR(8), 0.0)
        later = len(rows.select([tree], 0, 60.0, is_busy=False)[0])
    assert later > at_once
    for _ in range(60):
        rows.observe(8, DEAR(8), 0.0)
        busy = len(rows.select([tree], 0, 60.0, is_busy=True)[0])
    assert busy == at_once


def test_a_pass_that_is_planned_again_counts_its_gap_once() -> None:
    once, twice = PayingRows(), PayingRows()
    for rows in (once, twice):
        rows.observe(4, 10.0, now_s=1.0)
    tree = TokenTree((0, 1), (-1, 0), (0.0, -0.5), (0, 1))
    once.select([tree], 0, 1.008, is_busy=False)
    for _ in range(2):
        twice.select([tree], 0, 1.008, is_busy=False)
    assert twice._gap_ms == once._gap_ms > 0


def test_before_any_pass_all_are_kept() -> None:
    assert select(PayingRows(), [chain(0.1, 0.1)]) == [[0, 1, 2]]


def test_rows_of_unknown_time_are_tried() -> None:
    """Measured once as dear, on a busy machine: they are looked at again, and found cheap."""
    rows = PayingRows()
    rows.row_times.learn_measured([(size, 10.0 * (2.0 if size > 2 else 1.0)) for size in SIZES])
    tree = chain(*[0.8] * 7)
    largest = 0
    for _, _ in itertools.product(range(400), range(3)):
        kept = len(rows.select([tree], 0, 0.0, is_busy=True)[0])
        largest = max(largest, kept)
        rows.observe(kept, CHEAP(kept), 0.0)
    assert largest == tree.num_nodes


def test_rows_that_were_measured_while_other_services_came_up_are_soon_tried() -> None:
    """Of a start beside an SSM service that loaded. One node of each tree was verified then, for a hundred passes."""
    rows = PayingRows()
    for _ in range(3):  # routers ask for a measurement that was not complete once more
        rows.row_times.learn_measured([(1, 19.6), (2, 24.4), (4, 29.0), (8, 46.6)])
    tree, kept, now_s = chain(0.45, 0.5, 0.5), 0, 0.0
    for _ in range(20):
        now_s += 0.004
        kept = len(rows.select([tree], 0, now_s, is_busy=False)[0])
        now_s += 0.0155
        rows.observe(kept, 15.5 + 0.1 * kept, now_s)
    assert kept == tree.num_nodes
