"""The pool's KV slots: who must give theirs up, and that each is free or held by exactly one list whatever happens."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from specgrove.errors import StaleBaseError
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
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


class PoolMachine(RuleBasedStateMachine):
    """Random work of a few sessions in a small pool: every slot is free or held by exactly one list, all the time."""

    runners: ClassVar[list[ModelRunner]] = []

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.pool = make_pool(self.runners, self.clock)
        self.num_items = 0
        self.unanswered: set[int] = set()

    @rule(
        name=st.sampled_from("abcd"),
        num_new=st.integers(1, 60),
        anew=st.sampled_from((False, False, True)),
        depth=st.integers(0, 4),
        ahead_ms=st.sampled_from((0, 3_600_000)),
        ssms=st.sampled_from(((), ("beam",), ("expansion", "lookup"))),
    )
    def add(self, name: str, num_new: int, anew: bool, depth: int, ahead_ms: int, ssms: tuple[str, ...]) -> None:
        session = self.pool._sessions.get(name)
        base = 0 if anew or session is None else len(session.token_ids)
        self.num_items += 1
        new = tuple(i * num_new % 97 for i in range(num_new))
        work = DraftWork(name, base, new, TreeShape(6, depth), ssms, ahead_ms=ahead_ms)
        try:
            self.pool.add(self.num_items, work)
        except StaleBaseError:
            assert session is not None
        else:
            self.unanswered.add(self.num_items)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.pool.has_work():
                for item_id, result in self.pool.step():
                    if not isinstance(result, Draft) or not result.has_more:
                        self.unanswered.remove(item_id)

    @rule()
    def finish(self) -> None:
        self.unanswered -= run(self.pool).keys()
        assert not self.unanswered

    @rule(name=st.sampled_from("abcd"))
    def close(self, name: str) -> None:
        self.pool.close_session(name)

    @rule(passed_s=st.floats(0, 200))
    def wait(self, passed_s: float) -> None:
        self.clock.now_s += passed_s
        self.pool.expire_sessions()

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        for ssm in self.pool.ssms.neural.values():
            caches = ssm._caches.values()
            slots = [*ssm.slots._free, *(slot for cache in caches for slot in (*cache.slots, *cache.nodes.slots))]
            assert sorted(slots) == list(range(ssm.slots.num_slots))
            assert ssm._caches.keys() <= self.pool._sessions.keys()

    def teardown(self) -> None:
        self.finish()
        for name in "abcd":
            self.pool.close_session(name)
        assert self.pool.ssms.num_free_slots == self.pool.ssms.num_slots


def test_slots_are_accounted_for_whatever_happens(runners: list[ModelRunner]) -> None:
    machine = type("Machine", (PoolMachine,), {"runners": runners})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
    )
