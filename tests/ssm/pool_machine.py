"""A state machine that plays several routers to a pool: sessions that begin alike open, go on, grow ahead, close and expire."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from specgrove.errors import StaleBaseError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder
from ssm_service.neural import NeuralSsm
from tests.ssm.pools import Clock, ask, make_pool, run

NEURAL = ("beam", "expansion")
MAX_NUM_NODES = 6


class Expected:
    """What is drafted, and what stands in the slots, where nothing is shared, kept or short: computed by runners of its own."""

    def __init__(self, runners: list[ModelRunner]) -> None:
        self._runners = runners
        self.draft = functools.lru_cache(maxsize=None)(self._draft)
        self.keys_and_values = functools.lru_cache(maxsize=None)(self._keys_and_values)

    def _draft(self, token_ids: tuple[int, ...], depth: int) -> dict[str, tuple[TokenTree | None, int]]:
        """Trees and their numbers of levels, by SSM."""
        draft = ask(make_pool(self._runners), DraftWork("s", 0, token_ids, TreeShape(MAX_NUM_NODES, depth), NEURAL))
        return trees_of(draft)

    def _keys_and_values(self, ssm: int, token_ids: tuple[int, ...]) -> list[torch.Tensor]:
        """Of these tokens, in the first slots: read in one go."""
        builder = PassBuilder()
        builder.add(array("i", range(len(token_ids))), token_ids, chunk_logits=True)
        self._runners[ssm].start_top_k(builder.build(), 1)
        self._runners[ssm].finish_top_k(1)
        return [cache[: len(token_ids)].clone() for cache in caches_of(self._runners[ssm])]


def caches_of(runner: ModelRunner) -> Sequence[torch.Tensor]:
    return (*runner._caches.keys, *runner._caches.values)


def trees_of(draft: Draft) -> dict[str, tuple[TokenTree | None, int]]:
    trees = {drafted.ssm: drafted.tree for drafted in draft.trees}
    return {time.ssm: (trees.get(time.ssm), time.num_levels) for time in draft.times if time.ssm in NEURAL}


class PoolMachine(RuleBasedStateMachine):
    """Random work of a few sessions in a small pool: every slot is free or held by exactly one list, all the time."""

    runners: ClassVar[list[ModelRunner]] = []
    expected: ClassVar[Expected]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.pool = make_pool(self.runners, self.clock)
        self.num_items = 0
        self.unanswered: dict[int, tuple[tuple[int, ...], int]] = {}  # to be drafted below, and how deep
        self.is_told: set[int] = set()  # those that go ahead, and have had their draft

    @rule(
        name=st.sampled_from("abcd"),
        num_new=st.one_of(st.just(0), st.integers(1, 60)),
        step=st.sampled_from((1, 1, 7)),
        anew=st.sampled_from((False, False, True)),
        depth=st.integers(0, 4),
        ahead_ms=st.sampled_from((0, 3_600_000)),
        ssms=st.sampled_from(((), ("beam",), ("expansion", "lookup"))),
        salt=st.sampled_from((None, "", "", "a")),
    )
    def add(
        self,
        name: str,
        num_new: int,
        step: int,
        anew: bool,
        depth: int,
        ahead_ms: int,
        ssms: tuple[str, ...],
        salt: str | None,
    ) -> None:
        session = self.pool._sessions.get(name)
        base = 0 if anew or session is None else len(session.token_ids)
        self.num_items += 1
        num_new = max(num_new, base == 0)
        new = tuple((base + i) * step % 97 for i in range(num_new))  # many begin alike
        self._ask(DraftWork(name, base, new, TreeShape(MAX_NUM_NODES, depth), ssms, ahead_ms=ahead_ms, cache_salt=salt))

    @rule(name=st.sampled_from("abcd"), node=st.integers(0, 20), ahead_ms=st.sampled_from((0, 3_600_000)))
    def accept(self, name: str, node: int, ahead_ms: int) -> None:
        """A path of what was drafted is committed."""
        session = self.pool._sessions.get(name)
        ssm = self.pool.ssms.neural["beam"]
        if session is None or name not in ssm._caches or not ssm._caches[name].nodes.token_ids:
            return
        nodes, path = ssm._caches[name].nodes, []
        place = node % len(nodes.token_ids)
        while place >= 0:
            path.insert(0, nodes.token_ids[place])
            place = nodes.parents[place]
        self.num_items += 1
        shape = TreeShape(MAX_NUM_NODES, 4)
        self._ask(DraftWork(name, len(session.token_ids), tuple(path), shape, ("beam",), ahead_ms=ahead_ms))

    def _ask(self, work: DraftWork) -> None:
        session = self.pool._sessions.get(work.session_id)
        before = () if session is None or work.base == 0 else tuple(session.token_ids)
        try:
            self.pool.add(self.num_items, work)
        except StaleBaseError:
            assert session is not None
        else:
            self.unanswered[self.num_items] = ((*before, *work.new_token_ids), work.shape.max_depth)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.pool.has_work():
                self._take(self.pool.step())

    @rule()
    def finish(self) -> None:
        while self.pool.has_work():
            self._take(self.pool.step())
            self.every_slot_has_one_owner()
        assert not self.unanswered
        self.keys_and_values_are_those_of_their_tokens()

    @rule(name=st.sampled_from("abcd"))
    def close(self, name: str) -> None:
        self.pool.close_session(name)

    @rule()
    def fail(self) -> None:
        """A step failed: the loop answers all items itself, and the pool begins anew."""
        self.pool.reset()
        self.unanswered.clear()

    @rule(passed_s=st.floats(0, 200))
    def wait(self, passed_s: float) -> None:
        self.clock.now_s += passed_s
        self.pool.expire_sessions()

    def _take(self, results: Sequence[tuple[int, object]]) -> None:
        for item_id, result in results:
            token_ids, depth = self.unanswered[item_id]
            if isinstance(result, Draft) and item_id not in self.is_told:
                self._check(result, token_ids, depth)
            if isinstance(result, Draft) and result.has_more:
                self.is_told.add(item_id)
            else:
                del self.unanswered[item_id]

    def _check(self, draft: Draft, token_ids: tuple[int, ...], depth: int) -> None:
        """As where nothing is shared. Where room is short there may be fewer levels, or none."""
        found = trees_of(draft)
        num_slots = min(runner.num_slots for runner in self.runners)
        for name, (tree, num_levels) in found.items():
            right, right_num_levels = type(self).expected.draft(token_ids, depth)[name]
            if num_slots >= 2000:
                assert num_levels == right_num_levels
            if num_levels == right_num_levels and len(token_ids) <= num_slots:
                assert (tree is None) == (right is None)
                if tree is not None and right is not None:
                    assert (tree.token_ids, tree.parents) == (right.token_ids, right.parents)
                    # How many candidates a pass has for each row depends on all drafts in it.
                    assert tree.log_probs == pytest.approx(right.log_probs, abs=1e-5)

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        self.pool.ssms.check_slots()
        for ssm in self.pool.ssms.neural.values():  # looked at in another way
            caches = ssm._caches.values()
            prefixes = ssm.slots._prefixes
            assert prefixes is not None
            slots = [
                *ssm.slots._pool.free_slots,
                *(slot for node in prefixes.nodes() for slot in node.slots),
                *(slot for cache in caches for slot in cache.slots[0 if cache.place is None else cache.place.end :]),
                *(slot for cache in caches for slot in cache.nodes.slots),
            ]
            assert sorted(slots) == list(range(ssm.slots.num_slots))
            assert ssm._caches.keys() <= self.pool._sessions.keys()

    def keys_and_values_are_those_of_their_tokens(self) -> None:
        """Bit for bit, of sessions and of what is kept of those that ended."""
        for number, ssm in enumerate(self.pool.ssms.neural.values()):
            assert isinstance(ssm, NeuralSsm)
            held = [(cache.token_ids[: len(cache.slots)], list(cache.slots)) for cache in ssm._caches.values()]
            prefixes = ssm.slots._prefixes
            assert prefixes is not None
            for leaf in prefixes.nodes():
                if not leaf.children:
                    path = list(leaf.path())[::-1]
                    held.append(
                        ([t for node in path for t in node.token_ids], [s for node in path for s in node.slots])
                    )
            for token_ids, slots in held:
                if token_ids:
                    right = type(self).expected.keys_and_values(number, tuple(token_ids))
                    for own, other in zip(caches_of(self.runners[number]), right, strict=True):
                        assert torch.equal(own[slots], other)

    def teardown(self) -> None:
        self.finish()
        for name in "abcd":
            self.pool.close_session(name)
        assert self.pool.ssms.num_free_slots == self.pool.ssms.num_slots
        assert run(self.pool) == {}
        self.keys_and_values_are_those_of_their_tokens()
