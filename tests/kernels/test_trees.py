"""Merging, masks, walking and checking of token trees against plain Python."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.kernels import trees
from specgrove.loop.token_tree import TokenTree, merge_trees
from tests.kernels import reference_trees


@st.composite
def token_trees(draw: st.DrawFn, max_num_nodes: int = 90) -> TokenTree:
    token_ids, parents, log_probs, sources = [7], [-1], [0.0], [0]
    children: set[tuple[int, int]] = set()
    for node in range(1, draw(st.integers(1, max_num_nodes))):
        parent, token_id = draw(st.integers(max(0, node - 5), node - 1)), draw(st.integers(0, 4))
        if (parent, token_id) in children or parent >= len(token_ids):
            continue
        children.add((parent, token_id))
        token_ids.append(token_id)
        parents.append(parent)
        log_probs.append(-draw(st.integers(0, 40)) / 8)  # sums of eighths are exact: ties are ties
        sources.append(draw(st.integers(1, 7)))
    return TokenTree(tuple(token_ids), tuple(parents), tuple(log_probs), tuple(sources))


def arrays(tree: TokenTree) -> trees.Arrays:
    return tree.token_ids, tree.parents, tree.log_probs, tree.sources


@settings(max_examples=60, deadline=None)
@given(st.lists(token_trees(), min_size=1, max_size=4), st.integers(1, 60), st.randoms())
def test_merging(drafted: list[TokenTree], max_num_nodes: int, order: random.Random) -> None:
    found = trees.merge_trees([arrays(tree) for tree in drafted], max_num_nodes)
    assert found == reference_trees.merge_trees([arrays(tree) for tree in drafted], max_num_nodes)
    merged = merge_trees(drafted, max_num_nodes)
    merged.validated(vocab_size=8, max_num_nodes=max_num_nodes)
    shuffled = order.sample(drafted, len(drafted))
    assert merge_trees(shuffled, max_num_nodes) == merged
    for parent in range(merged.num_nodes):
        children = [node for node in range(merged.num_nodes) if merged.parents[node] == parent]
        assert sum(math.exp(merged.log_probs[node]) for node in children) <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(token_trees(), min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 20))
def test_the_best_nodes_of_a_merged_tree_are_its_first_ones(
    drafted: list[TokenTree], max_num_nodes: int, num_more: int
) -> None:
    few, more = merge_trees(drafted, max_num_nodes), merge_trees(drafted, max_num_nodes + num_more)
    assert few == more.of_nodes(range(few.num_nodes))
    scores = few.path_log_probs()
    assert all(following <= before + 1e-9 for before, following in itertools.pairwise(scores))


def test_merging_unites_sources_and_keeps_the_better_probability() -> None:
    left = TokenTree((7, 1, 2), (-1, 0, 1), (0.0, -1.0, -0.5), (0, 1, 1))
    right = TokenTree((7, 3, 1, 4), (-1, 0, 0, 2), (0.0, -2.0, -0.25, -3.0), (0, 2, 2, 2))
    merged = merge_trees([left, right], 10)
    assert merged.token_ids == (7, 1, 2, 3, 4)
    assert merged.parents == (-1, 0, 1, 0, 1)
    assert merged.log_probs == (0.0, -0.25, -0.5, -2.0, -3.0)
    assert merged.sources == (0, 3, 1, 2, 2)
    assert merge_trees([left, right], 3).token_ids == (7, 1, 2)
    with pytest.raises(ValueError, match="same root"):
        merge_trees([left, TokenTree.of_root(8)], 10)


def test_siblings_that_are_too_sure_together_are_scaled() -> None:
    left = TokenTree((7, 1), (-1, 0), (0.0, math.log(0.9)), (0, 1))
    right = TokenTree((7, 2), (-1, 0), (0.0, math.log(0.6)), (0, 2))
    merged = merge_trees([left, right], 10)
    assert [math.exp(log_prob) for log_prob in merged.log_probs] == pytest.approx([1.0, 0.6, 0.4])


def test_who_borrows_a_path_says_nothing_of_it() -> None:
    neural = TokenTree((7, 1), (-1, 0), (0.0, -1.0), (0, 1))
    grafted = TokenTree((7, 1, 2), (-1, 0, 1), (0.0, -0.1, -0.5), (0, 0, 2))
    for order in ([neural, grafted], [grafted, neural]):
        merged = merge_trees(order, 10)
        assert merged.log_probs == (0.0, -1.0, -0.5)
        assert merged.sources == (0, 1, 2)
    assert merge_trees([grafted], 10).log_probs == (0.0, -0.1, -0.5)


@settings(max_examples=60, deadline=None)
@given(token_trees(max_num_nodes=150), st.data())
def test_masks_and_walks(tree: TokenTree, data: st.DataObject) -> None:
    assert trees.ancestor_masks(tree.parents) == reference_trees.ancestor_masks(tree.parents)
    choices = data.draw(st.lists(st.integers(0, 4), min_size=tree.num_nodes, max_size=tree.num_nodes))
    walked = trees.walk_tree(tree.token_ids, tree.parents, choices)
    assert walked == reference_trees.walk_tree(tree.token_ids, tree.parents, choices)


@pytest.mark.parametrize(
    ("token_ids", "parents", "complaint"),
    [
        ((), (), "no root"),
        ((1, 2), (-1,), "2 token ids, but 1 parents"),
        ((1, 2, 3), (-1, 2, 0), "node 1 has parent 2, a parent must stand before"),
        ((1, 2), (-1, 1), "node 1 has parent 1"),
        ((1, 2), (-1, -1), "node 1 has parent -1"),
        ((1, 2), (0, 0), "root's parent must be -1"),
        ((1, 10), (-1, 0), "node 1 has token id 10, ids must be from 0 to 9"),
        ((1, -1), (-1, 0), "token id -1"),
        ((1, 2, 2), (-1, 0, 0), "node 2 repeats token 2"),
        ((1, 2, 3, 4), (-1, 0, 1, 2), "4 nodes, at most 3"),
    ],
)
def test_malformed_trees_are_named(token_ids: tuple[int, ...], parents: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        trees.validate_tree(token_ids, parents, 10, 3)


def test_malformed_probabilities_are_named() -> None:
    for value in (math.nan, 0.5, math.inf):
        with pytest.raises(ValueError, match="log_probs must be <= 0"):
            TokenTree((1, 2), (-1, 0), (0.0, value), (0, 0)).validated(vocab_size=5, max_num_nodes=5)
    with pytest.raises(ValueError, match="must have one length"):
        TokenTree((1, 2), (-1, 0), (0.0,), (0, 0)).validated(vocab_size=5, max_num_nodes=5)


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [([], [], [], [])],
        [([7], [-1], [0.0], [1]), ([8], [-1], [0.0], [1])],
        [([7, 1], [-1, 1], [0.0, 0.0], [1, 1])],
        [([7, 1], [-1, -1], [0.0, 0.0], [1, 1])],
        [([7, 1], [-1], [0.0, 0.0], [1, 1])],
        [([7, 1], [-1, 0], [0.0], [1, 1])],
        [([7, 1], [-1, 0], [0.0, 0.0], [1])],
        [([7, 1], [-1, 0], [0.0, float("nan")], [1, 1])],
    ],
)
def test_merge_refuses_what_is_malformed(arrays: list[trees.Arrays]) -> None:
    """Roots that differ, parents behind their children, arrays of different lengths, NaN."""
    with pytest.raises(ValueError):  # noqa: PT011
        trees.merge_trees(arrays, 64)


def test_walk_refuses_arrays_of_different_lengths() -> None:
    """Rather than read past their end."""
    with pytest.raises(ValueError, match="choices"):
        trees.walk_tree([7, 1, 2], [-1, 0, 1], [1])
    with pytest.raises(ValueError, match="parents"):
        trees.walk_tree([7, 1, 2], [-1, 0], [1, 1, 1])
