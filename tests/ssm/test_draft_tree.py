"""Growing trees by rule: beam search against brute force, static expansion, and what is answered in the end."""

from __future__ import annotations

import math
import random

import pytest

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import TreePrices, TreeShape
from ssm_service.draft_tree import ROOT, Beam, DraftTree, Expansion

Path = tuple[int, ...]


class ToyModel:
    """A next-token distribution that depends on the whole path."""

    def __init__(self, seed: int, vocab_size: int = 5) -> None:
        self._seed = seed
        self.vocab_size = vocab_size

    def log_probs(self, path: Path) -> list[float]:
        rng = random.Random(f"{self._seed} {path}")
        weights = [rng.expovariate(1.0) + 1e-3 for _ in range(self.vocab_size)]
        return [math.log(weight / sum(weights)) for weight in weights]

    def best(self, path: Path, count: int) -> list[tuple[int, float]]:
        pairs = list(enumerate(self.log_probs(path)))
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]


def path_of(tree: DraftTree, node: int) -> Path:
    path: Path = ()
    while node != ROOT:
        path = (tree.token_ids[node], *path)
        node = tree.parents[node]
    return path


def drafted(model: ToyModel, tree: DraftTree) -> TokenTree:
    expanded = [ROOT]
    while expanded and (count := tree.num_children()):
        children = [model.best(path_of(tree, node), count) for node in expanded]
        expanded = tree.grow(expanded, children)
    return tree.best(99)


def paths_of(tree: TokenTree) -> set[Path]:
    paths: list[Path] = [()]
    for node in range(1, tree.num_nodes):
        paths.append((*paths[tree.parents[node]], tree.token_ids[node]))
    return set(paths[1:])


@pytest.mark.parametrize("seed", range(10))
def test_a_wide_beam_finds_the_best_nodes_there_are(seed: int) -> None:
    model, depth, num_nodes = ToyModel(seed), 3, 9
    tree = drafted(model, DraftTree(TreeShape(num_nodes, depth), Beam(width=model.vocab_size**depth)))
    scores: dict[Path, float] = {(): 0.0}
    for _ in range(depth):
        for path in [path for path in scores if len(path) == max(map(len, scores))]:
            for token_id, log_prob in enumerate(model.log_probs(path)):
                scores[*path, token_id] = scores[path] + log_prob
    del scores[()]
    expected = sorted(scores, key=lambda path: -scores[path])[:num_nodes]
    assert paths_of(tree) == set(expected)
    tree.validated(vocab_size=100, max_num_nodes=num_nodes + 1)


def test_a_beam_of_one_is_a_greedy_chain() -> None:
    model = ToyModel(1)
    tree = drafted(model, DraftTree(TreeShape(4, 4), Beam(width=1)))
    path: Path = ()
    for node in range(1, 5):
        path = (*path, model.best(path, 1)[0][0])
        assert tree.token_ids[node] == path[-1]
    assert tree.parents == (-1, 0, 1, 2, 3)


def test_the_shape_overrides_the_beam_width() -> None:
    tree = drafted(ToyModel(2), DraftTree(TreeShape(50, 2, beam_width=2), Beam(width=4)))
    assert tree.num_nodes == 1 + 2 + 4


def test_deepening_ends_where_nothing_can_be_kept() -> None:
    sure = DraftTree(TreeShape(2, 8), Beam(width=2))
    assert sure.grow([ROOT], [[(1, -0.01), (2, -5.0)]]) == [0]
    assert sure.grow([0], [[(3, -0.01), (4, -6.0)]]) == []


def test_static_expansion_has_the_counts_of_its_levels() -> None:
    tree = drafted(ToyModel(3), DraftTree(TreeShape(99, 9), Expansion((1, 1, 3, 1, 1))))
    depths = tree.depths()
    assert [depths.count(depth) for depth in range(6)] == [1, 1, 1, 3, 3, 3]
    assert max(drafted(ToyModel(3), DraftTree(TreeShape(99, 2), Expansion((1, 1, 3)))).depths()) == 2


def test_a_level_is_drafted_where_the_nodes_above_it_promise_its_price() -> None:
    tree = DraftTree(TreeShape(8, 4, prices=TreePrices(min_level_prob=0.5, min_node_prob=0.0)), Beam(2))
    expanded = tree.grow([ROOT], [[(1, math.log(0.5)), (2, math.log(0.2))]])
    assert expanded == [0, 1]  # 0.7 together
    assert tree.grow(expanded, [[(3, math.log(0.6)), (4, math.log(0.1))], [(5, math.log(0.4))]]) == []  # 0.38 together


def test_nodes_that_promise_less_than_their_price_are_left_out() -> None:
    tree = DraftTree(TreeShape(8, 2, prices=TreePrices(0.0, min_node_prob=0.15)), Beam(2))
    expanded = tree.grow([ROOT], [[(1, math.log(0.5)), (2, math.log(0.2))]])
    tree.grow(expanded, [[(3, math.log(0.6)), (4, math.log(0.1))], [(5, math.log(0.4))]])
    assert tree.best(9).token_ids == (9, 1, 2, 3)
