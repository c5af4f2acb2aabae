"""Lookup goes on below the leaves of other SSMs' trees, with what followed the same words before."""

from __future__ import annotations

import itertools
import math

from specgrove.loop.token_tree import TokenTree, merge_trees
from specgrove.loop.works import DraftedTree, TreeShape
from ssm_service.grafting import grafted
from ssm_service.lookup import LookupSsm

SHAPE = TreeShape(max_num_nodes=8, max_depth=6)
# "1 2 3 4 5 6 7" was said before; now it is "9 9 1 2", and a neural SSM says 3, 4, or 8.
TEXT = [1, 2, 3, 4, 5, 6, 7, 9, 9, 1, 2]
NEURAL = TokenTree((2, 3, 4, 8), (-1, 0, 1, 0), (0.0, math.log(0.6), math.log(0.5), math.log(0.3)), (0, 0, 0, 0))


def lookup_of(text: list[int]) -> tuple[LookupSsm, list[DraftedTree]]:
    lookup = LookupSsm("lookup")
    tree = lookup.draft("s", text, TreeShape(1, 1))
    return lookup, [DraftedTree("lookup", tree)] if tree.num_nodes > 1 else []


def paths(tree: TokenTree) -> dict[tuple[int, ...], int]:
    """Sources of each node by its path's tokens."""
    found: dict[int, tuple[int, ...]] = {0: ()}
    for node in range(1, tree.num_nodes):
        found[node] = (*found[tree.parents[node]], tree.token_ids[node])
    return {path: tree.sources[node] for node, path in found.items()}


def test_a_leaf_goes_on_as_the_text_did() -> None:
    lookup, own = lookup_of(TEXT)
    found = grafted([*own, DraftedTree("neural", NEURAL)], lookup, "s", TEXT, SHAPE, None)
    assert found is not None
    assert found.ssm == "lookup"
    found.tree.validated(vocab_size=100, max_num_nodes=64)
    # 3 is lookup's own guess too; 4 is borrowed; below it are the words that followed, down to the depth asked for.
    sources = paths(found.tree)
    assert sources == {
        (): 0,
        (3,): 1,
        (3, 4): 0,
        (3, 4, 5): 1,
        (3, 4, 5, 6): 1,
        (3, 4, 5, 6, 7): 1,
        (3, 4, 5, 6, 7, 9): 1,
    }


def test_merged_it_is_one_tree_with_the_neural_probabilities_where_it_is_borrowed() -> None:
    lookup, own = lookup_of(TEXT)
    found = grafted([*own, DraftedTree("neural", NEURAL)], lookup, "s", TEXT, SHAPE, None)
    assert found is not None
    merged = merge_trees([found.tree.with_source(0), NEURAL.with_source(1)], 16)
    sources = paths(merged)
    assert sources[3, 4] == 2
    assert sources[3, 4, 5] == 1
    assert sources[8,] == 2
    node = list(sources).index((3, 4))
    assert merged.log_probs[node] == math.log(0.5)


def test_the_order_of_trees_changes_nothing() -> None:
    lookup, own = lookup_of(TEXT)
    other = TokenTree((2, 3, 4, 5), (-1, 0, 1, 2), (0.0, -0.2, -0.3, -0.4), (0, 0, 0, 0))
    trees = [*own, DraftedTree("a", NEURAL), DraftedTree("b", other)]
    found = {grafted(list(order), lookup, "s", TEXT, SHAPE, None) for order in itertools.permutations(trees)}
    assert len(found) == 1


def test_words_that_were_not_said_before_get_nothing() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 9, 9, 1]
    lookup, own = lookup_of(text)
    unknown = TokenTree((1, 50, 51), (-1, 0, 1), (0.0, -0.1, -0.1), (0, 0, 0))
    assert grafted([*own, DraftedTree("neural", unknown)], lookup, "s", text, SHAPE, None) is None
    assert grafted(own, lookup, "s", text, SHAPE, None) is None


def test_a_leaf_as_deep_as_was_asked_for_stays_one() -> None:
    lookup, own = lookup_of(TEXT)
    assert grafted([*own, DraftedTree("neural", NEURAL)], lookup, "s", TEXT, TreeShape(8, 2), None) is None
