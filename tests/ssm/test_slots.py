"""The pool's KV slots: who must give theirs up, and that each is free or held by exactly one list whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from specgrove.loop.works import Draft, DraftWork
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
from tests.ssm.pool_machine import Expected, PoolMachine
from tests.ssm.pools import SHAPE, Clock, ask, make_pool, run


def test_no_room_costs_the_tree_only(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    for i in range(4):
        draft = ask(pool, DraftWork(f"s{i}", 0, tuple(i + j % 50 for j in range(120)), SHAPE))
        assert draft.base == 120
    draft = ask(pool, DraftWork("s3", 120, (7,), SHAPE))
    assert {"beam", "expansion"} <= {drafted.ssm for drafted in draft.trees}
    for i in range(4):
        pool.close_session(f"s{i}")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


def test_room_comes_from_the_session_that_drafted_longest_ago(runners: list[ModelRunner]) -> None:
    """Its keys and values go, its tokens stay: it drafts the same as before, and nobody has to send anything anew."""
    ssm = NeuralSsm("beam", runners[0], Beam(2), None)
    pool = DrafterPool([ssm], PoolConfig())
    prompts = {name: tuple((i * step) % TINY_VOCAB_SIZE for i in range(90)) for name, step in (("a", 3), ("b", 5))}
    before = {name: ask(pool, DraftWork(name, 0, prompt, SHAPE)) for name, prompt in prompts.items()}
    ask(pool, DraftWork("a", 90, (), SHAPE))
    ask(pool, DraftWork("c", 0, (9,) * 110, SHAPE))
    assert set(ssm._caches) == {"a", "c"}
    assert pool.num_sessions == 3
    assert ask(pool, DraftWork("b", 90, (), SHAPE)).trees == before["b"].trees
    assert set(ssm._caches) == {"c", "b"}


def test_sessions_under_way_keep_their_room(runners: list[ModelRunner]) -> None:
    ssm = NeuralSsm("beam", runners[0], Beam(2), None)
    pool = DrafterPool([ssm], PoolConfig())
    for i in range(4):
        pool.add(i, DraftWork(f"s{i}", 0, tuple(range(i, 90 + i)), SHAPE))
    drafts = run(pool)
    assert [len(draft.trees) for _, draft in sorted(drafts.items()) if isinstance(draft, Draft)] == [1, 1, 1, 0]


def test_slots_are_looked_at_when_idle(runners: list[ModelRunner]) -> None:
    """One that is lost makes the pool begin anew; it is not looked for while nothing happens."""
    clock = Clock()
    pool = make_pool(runners, clock)
    ask(pool, DraftWork("s", 0, (5, 6), SHAPE, cache_salt=""))
    clock.now_s = 11.0
    pool.expire_sessions()
    (lost,) = pool.ssms.neural["beam"].slots.allocate(1)
    clock.now_s = 22.0
    pool.expire_sessions()  # nothing was computed since
    ask(pool, DraftWork("s", 2, (7,), SHAPE))
    clock.now_s = 33.0
    with pytest.raises(RuntimeError, match=f"KV slots without an owner, or with two: {lost} has 0"):
        pool.expire_sessions()
    pool.reset()
    pool.ssms.check_slots()


@pytest.fixture(scope="module")
def expected(runners: list[ModelRunner]) -> Expected:
    return Expected([ModelRunner(runner.decoder, 300) for runner in runners])


@pytest.mark.parametrize("num_slots", [90, 300, 2000])
def test_slots_are_accounted_for_whatever_happens(
    runners: list[ModelRunner], expected: Expected, num_slots: int
) -> None:
    own = [ModelRunner(runner.decoder, num_slots) for runner in runners]
    machine = type("Machine", (PoolMachine,), {"runners": own, "expected": expected})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)
    )
