"""An SSM that reads hidden states grows its trees from drafted states; every draft begins with the true ones all the same."""

from __future__ import annotations

import random

import pytest

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Draft, DraftWork, TreeShape
from ssm_service.config import PoolConfig
from ssm_service.pool import DrafterPool
from tests.models.hidden_state.tiny_ssms import random_module
from tests.ssm.hidden_states import TwinDrafter, make_ssm, message, toy_ends, toy_hidden_states
from tests.ssm.pools import SHAPE

TOKENS = [random.Random(3).randrange(120) for _ in range(100)]
STATES = toy_hidden_states(100)
AHEAD_MS = 3_600_000
TOLERANCE = 2e-3


def answer(pool: DrafterPool, item_id: int, work: DraftWork) -> TokenTree:
    """The tree; the item goes on."""
    pool.add(item_id, work)
    while True:
        for found_id, result in pool.step():
            if found_id == item_id:
                assert isinstance(result, Draft), result
                return result.trees[0].tree


def grown(pool: DrafterPool, num_passes: int) -> TokenTree:
    """The tree after so many passes more."""
    tree: TokenTree | None = None
    for _ in range(num_passes):
        for _, result in pool.step():
            assert isinstance(result, Draft), result
            tree = result.trees[0].tree
    assert tree is not None
    return tree


def log_probs_by_path(tree: TokenTree) -> dict[tuple[int, ...], float]:
    paths: list[tuple[int, ...]] = [()]
    for node in range(1, tree.num_nodes):
        paths.append((*paths[tree.parents[node]], tree.token_ids[node]))
    return dict(zip(paths[1:], tree.log_probs[1:], strict=True))


def test_it_grows_from_drafted_states_and_true_ones_replace_them() -> None:
    module, ends = random_module(hidden_window=100), toy_ends()
    pool, twin = DrafterPool([make_ssm(module, ends)], PoolConfig()), TwinDrafter(module, ends)
    steps = random.Random(5)
    length, base = 24, 0
    first_row = 0
    num_compared = 0
    for item_id in range(8):
        rows = message(STATES, first_row, length - 1)
        work = DraftWork("s", base, tuple(TOKENS[base:length]), SHAPE, hidden_states=rows, ahead_ms=AHEAD_MS)
        tree = answer(pool, item_id, work)
        expected = twin.tree(TOKENS[:length], STATES[: length - 1], 0, SHAPE)
        assert (tree.token_ids, tree.parents) == (expected.token_ids, expected.parents)
        assert tree.log_probs == pytest.approx(expected.log_probs, abs=TOLERANCE)
        right = log_probs_by_path(twin.tree(TOKENS[:length], STATES[: length - 1], 0, TreeShape(255, 4, 8)))
        for path, log_prob in log_probs_by_path(grown(pool, 3)).items():
            if path in right:
                num_compared += len(path) > 1
                assert log_prob == pytest.approx(right[path], abs=TOLERANCE)
        first_row, base, length = length - 1, length, length + steps.randrange(1, 6)
    assert num_compared > 50
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
