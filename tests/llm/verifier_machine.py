"""A state machine that plays several routers to a verifier engine: they open, go on, err, close and lose interest."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llm_service.verifier import VerifierEngine
from specgrove.errors import DeadlineExceededError, InvalidRequestError, SessionClosedError, StaleBaseError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs, PromptProgress, Verdict, VerifyWork
from tests.llm.router_sessions import Asked, RouterSession
from tests.llm.verifying import GREEDY, SAMPLED, Clock, random_tree

NAMES = "abcd"

# Some begin alike.
PROMPTS = (
    (5,),
    (5, 1, 44, 90, 3, 3, 17),
    (5, 1, 44, 90, 8),
    tuple(i * 7 % 97 for i in range(40)),
    (*(i * 7 % 97 for i in range(25)), 1, 2, 3),
)
SALTS = ("", "", "a")


SAMPLINGS = (GREEDY, replace(SAMPLED, stop_token_ids=(), min_tokens=0), SamplingParams(temperature=0.7, seed=11))


class VerifierMachine(RuleBasedStateMachine):
    """Random work of a few sessions."""

    make_engine: ClassVar[Callable[[Clock], VerifierEngine]]
    expected_output: ClassVar[Callable[[tuple[int, ...], SamplingParams], list[int]]]
    expected_log_probs: ClassVar[Callable[[tuple[int, ...]], list[LogProbs]]]
    """Of a prompt's tokens from the second on."""
    num_slots: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.engine = type(self).make_engine(self.clock)
        self.sessions: dict[str, RouterSession] = {}
        self.replaced: dict[int, str] = {}  # items whose sessions were closed or opened anew: a last result is to come
        self.num_items = 0

    @rule(
        name=st.sampled_from(NAMES),
        prompt=st.sampled_from(PROMPTS),
        sampling=st.sampled_from(SAMPLINGS),
        num_steps=st.sampled_from((1, 1, 3, 12)),
        timeout_ms=st.sampled_from((None, None, 500)),
        seed=st.integers(0, 2**16),
    )
    def open(
        self,
        name: str,
        prompt: tuple[int, ...],
        sampling: SamplingParams,
        num_steps: int,
        timeout_ms: int | None,
        seed: int,
    ) -> None:
        """A new request, or another with a name that is still known: it takes its place."""
        self._replace(name)
        expected = type(self).expected_output(prompt, sampling)
        session = RouterSession(prompt, sampling, expected, wants_log_probs=seed % 4 == 0, cache_salt=SALTS[seed % 3])
        self.sessions[name] = session
        self._ask(name, session, 0, num_steps, timeout_ms, seed)

    @rule(
        name=st.sampled_from(NAMES),
        num_steps=st.sampled_from((1, 1, 3, 12)),
        timeout_ms=st.sampled_from((None, None, 500)),
        seed=st.integers(0, 2**16),
    )
    def go_on(self, name: str, num_steps: int, timeout_ms: int | None, seed: int) -> None:
        """The next step of a session, from what the router believes to be held; a replay where it isn't."""
        session = self.sessions.get(name)
        if session is None or not session.num_left:
            return
        if session.asked is not None:
            with pytest.raises(StaleBaseError) as caught:  # one item at a time
                self._add(name, session, len(session.committed), 1, None, TokenTree.of_root(session.committed[-1]))
            assert caught.value.held_len == 0
            return
        self._ask(name, session, len(session.committed) if session.is_held else 0, num_steps, timeout_ms, seed)

    @rule(num_steps=st.sampled_from((1, 1, 3)), seed=st.integers(0, 2**16))
    def go_on_with_all(self, num_steps: int, seed: int) -> None:
        """Every session has work at once, as under load."""
        for number, (name, session) in enumerate(self.sessions.items()):
            if session.asked is None and session.num_left:
                base = len(session.committed) if session.is_held else 0
                self._ask(name, session, base, num_steps, None, seed + number)

    @rule(name=st.sampled_from(NAMES), difference=st.sampled_from((-1, 1, 5)))
    def go_on_from_a_wrong_base(self, name: str, difference: int) -> None:
        session = self.sessions.get(name)
        if session is None or session.asked is not None or len(session.committed) + difference < 1:
            return
        base = len(session.committed) + difference
        with pytest.raises(StaleBaseError) as caught:
            self._add(name, session, base, 1, None, TokenTree.of_root(session.committed[-1]))
        assert caught.value.held_len in ((len(session.committed), 0) if session.is_held else (0,))
        session.is_held = caught.value.held_len > 0

    @rule(name=st.sampled_from(NAMES))
    def send_a_root_that_is_not_the_last_token(self, name: str) -> None:
        session = self.sessions.get(name)
        if session is None or session.asked is not None or not session.is_held:
            return
        tree = TokenTree.of_root((session.committed[-1] + 1) % 97)
        with pytest.raises((InvalidRequestError, StaleBaseError)):
            self._add(name, session, len(session.committed), 1, None, tree)
        session.is_held = False

    @rule(name=st.sampled_from(NAMES))
    def close(self, name: str) -> None:
        self._replace(name)
        self.sessions.pop(name, None)
        self.engine.close_session(name)

    @rule(reopens=st.booleans(), seed=st.integers(0, 2**16))
    def end_amid_a_pass(self, reopens: bool, seed: int) -> None:
        """Its tree is in flight when the session goes."""
        self.go_on_with_all(12, seed)
        self.step(1)
        for name in sorted(self.engine._passes.session_ids):
            if name in self.sessions:
                if reopens:
                    self.open(name, PROMPTS[1], GREEDY, 3, None, seed)
                else:
                    self.close(name)

    @rule(name=st.sampled_from(NAMES))
    def call_off(self, name: str) -> None:
        """No more steps than the one under way."""
        session = self.sessions.get(name)
        if session is not None and session.asked is not None:
            session.asked.is_called_off = True
            self.engine.finish_early([session.asked.item_id])

    @rule(passed_s=st.sampled_from((0.05, 0.3, 1.0, 400.0)))
    def wait(self, passed_s: float) -> None:
        self.clock.now_s += passed_s
        self.engine.expire_sessions()

    @rule()
    def fail(self) -> None:
        """A step failed: the loop answers all items itself, and the engine begins anew."""
        self.engine.reset()
        self.replaced.clear()
        for session in self.sessions.values():
            session.asked, session.is_held = None, False

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.engine.has_work():
                self._take(self.engine.step())

    @rule()
    def finish(self) -> None:
        """Everything that was asked is answered in the end."""
        num_steps = 0
        while self.engine.has_work():
            self._take(self.engine.step())
            num_steps += 1
            assert num_steps < 500, "the engine has work and makes no progress"
            if not self.engine.has_work() and any(session.asked for session in self.sessions.values()):
                self.wait(3.0)  # they wait for slots of sessions that their routers have left alone for so long
        assert not self.replaced
        assert all(session.asked is None for session in self.sessions.values())

    def _replace(self, name: str) -> None:
        session = self.sessions.get(name)
        if session is not None and session.asked is not None:
            self.replaced[session.asked.item_id] = name

    def _ask(
        self, name: str, session: RouterSession, base: int, num_steps: int, timeout_ms: int | None, seed: int
    ) -> None:
        rng = random.Random(seed)
        num_steps = min(num_steps, session.num_left)
        likely = session.expected[len(session.output) : len(session.output) + 5] if num_steps == 1 else []
        tree = random_tree(rng, session.committed[-1], likely[: session.num_left - 1])
        try:
            item_id = self._add(name, session, base, num_steps, timeout_ms, tree)
        except StaleBaseError as error:
            if base == 0 or error.held_len:  # else it was evicted or has expired
                raise
            session.is_held = False
            return
        deadline_s = None if timeout_ms is None else self.clock.now_s + timeout_ms / 1e3
        session.is_held, session.asked = True, Asked(item_id, tree, num_steps, deadline_s)

    def _add(
        self,
        name: str,
        session: RouterSession,
        base: int,
        num_steps: int,
        timeout_ms: int | None,
        tree: TokenTree,
    ) -> int:
        params = None if base else session.params()
        work = VerifyWork(name, base, session.committed[base:], tree, params, timeout_ms, num_steps)
        self.num_items += 1
        self.engine.add(self.num_items, work)
        return self.num_items

    def _take(self, results: list[tuple[int, object]]) -> None:
        for item_id, result in results:
            if item_id in self.replaced:
                self._take_of_replaced(item_id, result)
                continue
            (session,) = [s for s in self.sessions.values() if s.asked is not None and s.asked.item_id == item_id]
            asked = session.asked
            assert asked is not None
            if isinstance(result, PromptProgress):
                self._take_log_probs(session, result)
                continue
            if isinstance(result, Verdict):
                assert not session.lacks_log_probs
                self._check(session, asked, result)
                session.output.extend(result.token_ids)
                asked.num_steps_left -= result.num_steps
                if result.has_more:
                    assert asked.num_steps_left > 0
                    continue
                assert asked.is_called_off or asked.num_steps_left == 0
            elif isinstance(result, DeadlineExceededError):
                assert asked.deadline_s is not None
                assert self.clock.now_s > asked.deadline_s
                session.is_held = False
            else:
                pytest.fail(f"nobody fails for want of room: {result}")
            session.asked = None

    def _take_of_replaced(self, item_id: int, result: object) -> None:
        """Verdicts that were on their way out may come before the end."""
        if isinstance(result, PromptProgress) or (isinstance(result, Verdict) and result.has_more):
            return
        assert isinstance(result, Verdict | SessionClosedError | DeadlineExceededError), result
        del self.replaced[item_id]

    def _take_log_probs(self, session: RouterSession, progress: PromptProgress) -> None:
        """The next ones, with the bits that they always have."""
        start = session.log_probs_start
        assert session.lacks_log_probs
        assert progress.log_probs_start == start
        expected = type(self).expected_log_probs(session.prompt)
        assert list(progress.log_probs) == expected[start - 1 :][: len(progress.log_probs)]
        session.log_probs_start += len(progress.log_probs)

    def _check(self, session: RouterSession, asked: Asked, verdict: Verdict) -> None:
        assert verdict.base == len(session.committed)
        assert list(verdict.token_ids) == session.expected[len(session.output) :][: len(verdict.token_ids)]
        nodes = verdict.accepted_nodes
        assert [asked.tree.token_ids[node] for node in nodes] == list(verdict.token_ids[: len(nodes)])

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        self.engine.check_slots()

    @invariant()
    def nothing_is_under_way_when_idle(self) -> None:
        if not self.engine.has_work():
            assert sorted(held_slots(self.engine)) == list(range(self.num_slots))  # looked at in another way
            in_sessions = {slot for session in self.engine._room for slot in session.slots}
            assert self.engine.num_free_slots + len(in_sessions) == self.num_slots
            waiting = {name for name, session in self.sessions.items() if session.asked}
            cached = [
                session for session in self.engine._room if session.is_admitted and session.session_id not in waiting
            ]
            assert all(session.num_uncached == 0 for session in cached)
            assert len(waiting) < len(self.engine._room) or not waiting, "all wait, and for nobody"

    def teardown(self) -> None:
        self.finish()
        for name in NAMES:
            self.engine.close_session(name)
        assert not self.engine.has_work()
        assert (self.engine.num_free_slots, self.engine.num_sessions) == (self.num_slots, 0)


def held_slots(engine: VerifierEngine) -> list[int]:
    """Of the pool, of the prefix cache, of sessions, and of trees in passes under way: each slot once, if all is well."""
    prefixes = engine._room._slots._prefixes
    return [
        *engine._room._slots._pool.free_slots,
        *(slot for node in (prefixes.nodes() if prefixes is not None else ()) for slot in node.slots),
        *(slot for session in engine._room for slot in session.slots[session.shared_len :]),
        *(slot for begun in engine._passes for part in begun.parts for slot in part.tree_slots),
    ]
