"""Trees that grow on while they are verified: what becomes of them is what a draft afresh gives, and drafts come first."""

from __future__ import annotations

import math
import random

import pytest

from specgrove.config import MAX_NUM_TREE_NODES
from specgrove.errors import StaleBaseError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
from tests.ssm.pools import PROMPT, SHAPE, Clock, ask, make_pool

AHEAD_MS = 3_600_000
NEURAL = ("beam", "expansion")


def begin(pool: DrafterPool, item_id: int, work: DraftWork) -> Draft:
    """The answer to an item that may go ahead; it goes on."""
    pool.add(item_id, work)
    while True:
        for found_id, result in pool.step():
            if found_id == item_id:
                assert isinstance(result, Draft), result
                return result


def grow(pool: DrafterPool, item_id: int, num_steps: int) -> dict[str, TokenTree]:
    """The trees after so many steps, by SSM."""
    found: dict[str, TokenTree] = {}
    for _ in range(num_steps):
        for found_id, result in pool.step():
            assert found_id == item_id
            assert isinstance(result, Draft), result
            found.update({drafted.ssm: drafted.tree for drafted in result.trees})
    return found


def path_to(tree: TokenTree, node: int) -> list[int]:
    path: list[int] = []
    while node > 0:
        path.insert(0, tree.token_ids[node])
        node = tree.parents[node]
    return path


@pytest.mark.parametrize("sampling", [None, DraftSampling(0.8, 7, 0, 1.0)], ids=["greedy", "sampled"])
def test_whatever_the_verdict_the_next_tree_is_that_of_a_draft_afresh(
    runners: list[ModelRunner], sampling: DraftSampling | None
) -> None:
    """However far the tree has grown, and wherever the verdict ends: in what was answered, in what grew below it, or nowhere in it."""
    rng = random.Random(3)
    pool = make_pool(runners)
    committed = list(PROMPT)
    work = DraftWork("s", 0, PROMPT, SHAPE, ssms=NEURAL, sampling=sampling, ahead_ms=AHEAD_MS)
    num_below = 0
    for number in range(30):
        draft = begin(pool, number, work)
        fresh = begin(
            pool, 1000 + number, DraftWork("fresh", 0, tuple(committed), SHAPE, ssms=NEURAL, sampling=sampling)
        )
        pool.close_session("fresh")
        assert draft.base == len(committed)
        assert len(draft.trees) == len(fresh.trees)
        for drafted, right in zip(draft.trees, fresh.trees, strict=True):
            assert (drafted.ssm, drafted.tree.token_ids, drafted.tree.parents) == (
                right.ssm, right.tree.token_ids, right.tree.parents
            )  # fmt: skip
            assert drafted.tree.log_probs == pytest.approx(right.tree.log_probs, abs=1e-5)
        trees = {drafted.ssm: drafted.tree for drafted in draft.trees}
        trees.update(grow(pool, number, rng.randrange(6)))
        tree = trees[rng.choice(NEURAL)]
        node = rng.randrange(tree.num_nodes)
        is_right = rng.random() < 0.8 and node > 0
        new = path_to(tree, node) if is_right else [*path_to(tree, node), rng.randrange(TINY_VOCAB_SIZE)]
        num_below += is_right and all(drafted.tree.below(new) is None for drafted in draft.trees)
        if len(committed) + len(new) > 200:
            break
        work = DraftWork("s", len(committed), tuple(new), SHAPE, ssms=NEURAL, ahead_ms=AHEAD_MS)
        committed += new
    assert num_below > 3
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


def test_a_grown_tree_tells_of_each_node_what_a_draft_below_it_tells(runners: list[ModelRunner]) -> None:
    ssm = NeuralSsm("beam", runners[0], Beam(8), None)
    pool = DrafterPool([ssm], PoolConfig())
    begin(pool, 1, DraftWork("s", 0, PROMPT, TreeShape(4, 2), ahead_ms=AHEAD_MS))
    tree = grow(pool, 1, 5)["beam"]
    inner = sorted(set(tree.parents) - {-1})
    assert len(inner) > 10
    for number, node in enumerate(inner):
        path = path_to(tree, node)
        below = DraftWork("below", 0, (*PROMPT, *path), TreeShape(8, 1, 8))
        (level,) = begin(pool, 2 + number, below).trees
        children = [child for child in range(1, tree.num_nodes) if tree.parents[child] == node]
        told = {tree.token_ids[child]: tree.log_probs[child] for child in children}
        right = dict(zip(level.tree.token_ids[1:], level.tree.log_probs[1:], strict=True))
        assert told == pytest.approx({token_id: right[token_id] for token_id in told}, abs=1e-5)


def test_what_hangs_below_a_hit_costs_no_pass(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    shape = TreeShape(2, 1)
    begin(pool, 1, DraftWork("s", 0, PROMPT, shape, ssms=("beam",), ahead_ms=AHEAD_MS))
    tree = grow(pool, 1, 4)["beam"]
    grandchild = next(node for node in range(1, tree.num_nodes) if tree.depths()[node] == 2 and node in tree.parents)
    num_passes = pool.counts.pass_s["beam"].num
    num_rows = pool.ssms.num_rows
    new = tuple(path_to(tree, grandchild))
    ask(pool, DraftWork("s", len(PROMPT), new, shape, ssms=("beam",)))
    assert pool.ssms.num_rows == num_rows
    assert pool.counts.pass_s["beam"].num <= num_passes + 1  # in which no row was computed


def test_a_draft_comes_before_trees_that_grow_on(runners: list[ModelRunner]) -> None:
    """Other sessions' as well: while a draft is under way no tree grows."""
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ahead_ms=AHEAD_MS))
    pool.add(2, DraftWork("other", 0, PROMPT[1:], SHAPE))
    answered: list[int] = []
    while 2 not in answered:
        answered += [item_id for item_id, _ in pool.step()]
    assert answered[:-1].count(1) == 0
    assert grow(pool, 1, 2)


def test_growing_ends(runners: list[ModelRunner]) -> None:
    """With its time, with the next item, and with as many nodes as there may be. The item then has a last result."""
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ssms=("beam",), ahead_ms=AHEAD_MS))
    last: list[object] = []
    while pool.has_work():
        last = [result for _, result in pool.step()] or last
    assert isinstance(last[-1], Draft)
    assert not last[-1].has_more
    used = pool.ssms.num_slots - pool.ssms.num_free_slots
    assert used <= len(PROMPT) + MAX_NUM_TREE_NODES + 32
    begin(pool, 2, DraftWork("s", len(PROMPT), (3,), SHAPE, ssms=("beam",), ahead_ms=1))
    while pool.has_work():
        pool.step()
    assert pool._sessions["s"].pending is None


def test_the_next_item_may_come_before_the_answer(runners: list[ModelRunner]) -> None:
    """Where the one before may go ahead. It has a last result all the same, and the tree is right."""
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ssms=NEURAL, ahead_ms=AHEAD_MS))
    pool.add(2, DraftWork("s", len(PROMPT), (7,), SHAPE, ssms=NEURAL, ahead_ms=AHEAD_MS))
    pool.add(3, DraftWork("s", len(PROMPT) + 1, (9,), SHAPE, ssms=NEURAL))
    results: dict[int, object] = {}
    while pool.has_work():
        results.update(pool.step())
    assert set(results) == {1, 2, 3}
    fresh = ask(pool, DraftWork("x", 0, (*PROMPT, 7, 9), SHAPE, ssms=NEURAL))
    assert isinstance(results[3], Draft)
    assert [drafted.tree.token_ids for drafted in results[3].trees] == [
        drafted.tree.token_ids for drafted in fresh.trees
    ]


def test_an_item_with_a_wrong_base_leaves_the_tree_growing(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ahead_ms=AHEAD_MS))
    with pytest.raises(StaleBaseError) as caught:
        pool.add(2, DraftWork("s", 3, (7,), SHAPE))
    assert caught.value.held_len == len(PROMPT)
    assert grow(pool, 1, 2)


def test_a_growing_tree_is_closed_expires_and_runs_out_of_time_like_any(runners: list[ModelRunner]) -> None:
    clock = Clock()
    pool = make_pool(runners, clock)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, timeout_ms=1000, ahead_ms=AHEAD_MS))
    clock.now_s = 2.0
    while pool.has_work():
        pool.step()
    assert pool.num_sessions == 1  # what is committed is kept
    begin(pool, 2, DraftWork("s", len(PROMPT), (7,), SHAPE, ahead_ms=AHEAD_MS))
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
    begin(pool, 3, DraftWork("s", 0, PROMPT, SHAPE, ahead_ms=AHEAD_MS))
    pool.reset()
    assert not pool.has_work()


def test_trees_that_grow_take_no_slots_that_drafts_need(runners: list[ModelRunner]) -> None:
    """A growing tree takes free slots only, and gives its own to a draft."""
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ssms=("beam",), ahead_ms=AHEAD_MS))
    grow(pool, 1, 12)
    long_prompt = tuple(number % TINY_VOCAB_SIZE for number in range(240))
    draft = ask(pool, DraftWork("long", 0, long_prompt, SHAPE, ssms=("beam",)))
    assert draft.trees


def test_of_equal_shapes_a_path_is_at_most_as_likely_as_the_path_above(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    begin(pool, 1, DraftWork("s", 0, PROMPT, SHAPE, ssms=("beam",), ahead_ms=AHEAD_MS))
    for tree in [grow(pool, 1, 1)["beam"] for _ in range(4)]:
        tree.validated(vocab_size=TINY_VOCAB_SIZE, max_num_nodes=MAX_NUM_TREE_NODES)
        assert min(tree.path_log_probs()) >= math.log(1e-3)
