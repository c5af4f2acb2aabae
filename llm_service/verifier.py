"""The verifier engine: sessions, KV slots and work under way; a ``step`` begins forward passes and applies the oldest.

Driven by a ``StepLoop``, on whose thread everything here happens. Sessions are a cache of the router's committed tokens: they
may be dropped at any time (idle, no room, a failed step), and the router then sends the tokens again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

from llm_service.acceptance import Answers, accept, check_sampling
from llm_service.config import VerifierConfig
from llm_service.passes import Pass, answers_by_tree, next_pass, pass_of
from llm_service.scheduler import StepEntry, StepPlan, plan_step
from llm_service.session import PendingWork, Session
from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    StaleBaseError,
)
from specgrove.request import PromptProgress, Verdict, VerifyWork
from specgrove.runtime.kv_slots import SlotPool
from specgrove.runtime.model_runner import Runner, measure_step_ms
from specgrove.runtime.step_loop import WorkItem
from specgrove.token_tree import TokenTree

_MAX_NUM_STEPS = 256
_PROGRESS_INTERVAL_S = 0.2
_SOON_S = 0.1  # in which a session that drafts will have its next tree

Result = tuple[int, Verdict | PromptProgress | SpecGroveError]


class VerifierEngine:
    """The ``Engine`` of the LLM service."""

    def __init__(self, runner: Runner, config: VerifierConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._config = config
        self._clock_s = clock_s
        self.reset()
        self.num_steps = 0
        self.num_step_tokens = 0

    def reset(self) -> None:
        """Forgets all sessions and all work."""
        self._slots = SlotPool(self._runner.num_slots)
        self._sessions: dict[str, Session] = {}
        self._pending: dict[str, PendingWork] = {}
        self._ready: list[Result] = []
        self._in_flight: deque[Pass] = deque()
        self._runner.discard()

    @property
    def num_sessions(self) -> int:
        """Sessions held."""
        return len(self._sessions)

    @property
    def num_free_slots(self) -> int:
        """KV slots that no session holds."""
        return self._slots.num_free

    def has_work(self) -> bool:
        """See ``Engine``."""
        return bool(self._pending or self._ready or self._in_flight)

    def add(self, item: WorkItem[VerifyWork]) -> None:
        """See ``Engine``. While an item of a session is under way, only one that opens it anew is taken: it replaces the first."""
        work = item.work
        self._check(work)
        if work.base == 0:
            self._send_unsent()  # the prompt's passes may take long
            self.close_session(work.session_id)
        session = self._sessions.get(work.session_id)
        held_len = len(session.token_ids) if session else 0
        if work.base != held_len or (work.base > 0 and work.session_id in self._pending):
            raise StaleBaseError(held_len if work.session_id not in self._pending else 0)
        if session is None:
            assert work.session is not None
            session = Session(work.session_id, work.session.sampling, work.session.prompt_len)
            session.wants_prompt_progress = work.session.wants_prompt_progress
            self._sessions[work.session_id] = session
        session.extend(work.new_token_ids)
        session.last_used_s = self._clock_s()
        if work.tree.token_ids[0] != session.token_ids[-1]:
            self._drop(session)
            raise InvalidRequestError.of("tree.token_ids[0]", "the root must be the last committed token")
        self._pending[work.session_id] = PendingWork.of(item.item_id, session, work, session.last_used_s)

    def _check(self, work: VerifyWork) -> None:
        vocab_size, max_len = self._runner.spec.vocab_size, self._config.max_model_len
        if not 1 <= len(work.session_id) <= 64:
            raise InvalidRequestError.of("session_id", "must have 1 to 64 characters")
        if (work.base == 0) != (work.session is not None) or (work.base == 0 and not work.new_token_ids):
            raise InvalidRequestError.of(
                "base", "base 0 must come with the session's parameters and all committed tokens"
            )
        if work.session is not None and not 1 <= work.session.prompt_len <= len(work.new_token_ids):
            raise InvalidRequestError.of("session.prompt_len", "must be from 1 to the number of committed tokens")
        if any(not 0 <= token_id < vocab_size for token_id in work.new_token_ids):
            raise InvalidRequestError.of("new_token_ids", f"ids must be below the vocabulary's size {vocab_size}")
        if work.session is not None:
            check_sampling(work.session.sampling, vocab_size)
        try:
            work.tree.validated(vocab_size=vocab_size, max_num_nodes=self._config.max_num_tree_nodes)
        except ValueError as error:
            raise InvalidRequestError.of("tree", str(error)) from error
        num_tokens = work.base + len(work.new_token_ids)
        if not 1 <= work.num_steps <= _MAX_NUM_STEPS:
            raise InvalidRequestError.of("num_steps", f"must be from 1 to {_MAX_NUM_STEPS}")
        reached_len = num_tokens + max(work.tree.depths()) + work.num_steps - 1
        if reached_len > max_len:
            raise InvalidRequestError.of(
                "tree", f"committed tokens, tree and steps after it reach {reached_len}, the context holds {max_len}"
            )
        if num_tokens > self._runner.num_slots:
            raise InvalidRequestError.of(
                "new_token_ids", f"{num_tokens} tokens need as many KV slots; the service has {self._runner.num_slots}"
            )

    def step(self) -> list[Result]:
        """See ``Engine``. Begins forward passes while the runner takes more, then finishes the oldest; results that wait go first."""
        self._fail_expired()
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        has_room = True
        while has_room and len(self._in_flight) < self._runner.max_num_in_flight:
            has_room = self._start_forward()
        if self._in_flight and 0 < len(self._in_flight[0].trees) <= self._runner.max_num_ahead:
            self._run_ahead()
        results = self._finish_forward() if self._in_flight else []
        results.extend(self._prompt_progress())
        results.extend(self._ready)  # what found no slots
        self._ready = []
        return results

    def _prompt_progress(self) -> list[Result]:
        """Of those who want it, now and then. Prompts of a pass or two never get here."""
        now_s = self._clock_s()
        results: list[Result] = []
        for pending in self._pending.values():
            session = pending.session
            is_due = session.wants_prompt_progress and now_s - session.progress_s >= _PROGRESS_INTERVAL_S
            if is_due and session.slots and session.num_uncached > 0:
                results.append((pending.item_id, PromptProgress(len(session.slots))))
                session.progress_s = now_s
        return results

    def _send_unsent(self) -> None:
        for pending in self._pending.values():
            if pending.unsent is not None:
                self._ready.append((pending.item_id, pending.unsent))
                pending.unsent, pending.session.sent_s = None, self._clock_s()

    def _fail_expired(self) -> None:
        now_s = self._clock_s()
        for pending in list(self._pending.values()):
            if pending.deadline_s is not None and now_s > pending.deadline_s:
                self._fail(pending, DeadlineExceededError("the item's time ran out before its tree was verified"))

    def _with_slots(self, plan: StepPlan) -> list[tuple[StepEntry, list[int]]]:
        """Each entry with a KV slot for every row.

        Idle sessions make room. Where that is not enough the tree is given up, which costs speed only. An item that finds no
        room even so waits for the passes in flight, which free some; where there are none it fails.
        """
        with_slots = []
        for entry in plan.entries:
            self._evict_idle(entry.num_rows)
            if entry.has_tree and entry.num_rows > self._slots.num_free:
                entry.pending.tree = TokenTree.of_root(entry.pending.tree.token_ids[0])
            try:
                with_slots.append((entry, self._slots.allocate(entry.num_rows)))
            except ResourceExhaustedError as error:
                if not self._in_flight:
                    self._fail(entry.pending, error)
        return with_slots

    def _evict_idle(self, num_wanted: int) -> None:
        while self._slots.num_free < num_wanted:
            idle = [session for session in self._sessions.values() if session.session_id not in self._pending]
            if not idle:
                return
            self._drop(min(idle, key=lambda session: session.last_used_s))

    def _start_forward(self) -> bool:
        """Plans a pass over what is not in flight and begins it; False where there is nothing to do."""
        config = self._config
        plan = self._with_slots(
            plan_step(
                self._pending.values(),
                config.max_num_chunk_tokens,
                config.max_num_tree_rows,
                self._runner.max_num_in_flight,
            )
        )
        if not plan:
            return False
        begun, batch = pass_of(plan, choices_are_cheap=self._runner.choices_are_cheap)
        self._in_flight.append(begun)
        self._runner.start(batch)
        return True

    def _run_ahead(self) -> None:
        """Begins the pass that follows the one in flight at once, where it is sure what will be in it and nobody would wait for it.

        Sessions that draft have their next trees soon: those would wait.
        """
        if len(self._in_flight) != 1 or not self._in_flight[0].surely_goes_on(self._pending.values()):
            return
        (before,) = self._in_flight
        soon_s = self._clock_s() - _SOON_S
        idle = (session for session in self._sessions.values() if session.session_id not in self._pending)
        if any(session.last_used_s > soon_s for session in idle) or len(before.trees) > self._slots.num_free:
            return
        begun, batch = next_pass(before, self._slots.allocate(len(before.trees)))
        self._in_flight.append(begun)
        self._runner.start(batch)

    def _finish_forward(self) -> list[Result]:
        output = self._runner.finish()
        forward = self._in_flight.popleft()
        step_ms = (time.perf_counter() - forward.started_s) * 1e3
        self.num_steps += 1
        self.num_step_tokens += forward.num_rows
        results: list[Result] = []
        for tree, answers in answers_by_tree(forward.trees, output):
            pending = tree.pending
            if self._pending.get(pending.session.session_id) is not pending:  # closed or failed meanwhile
                self._slots.free(tree.slots)
                continue
            result = self._apply(pending, tree.slots, answers, step_ms, forward.num_rows)
            if result is not None:
                results.append((pending.item_id, result))
        return results

    def _apply(
        self, pending: PendingWork, tree_slots: list[int], answers: Answers, step_ms: float, num_rows: int
    ) -> Verdict | None:
        """The session's next verdict; None where it goes out with a later one or the item failed."""
        session, tree = pending.session, pending.tree
        try:
            acceptance = accept(session, tree, answers)
        except ValueError as error:
            self._slots.free(tree_slots)
            self._fail(pending, InternalError(f"the model's logits can't be used: {error}"))
            return None
        del self._pending[session.session_id]
        base = len(session.token_ids)
        kept_nodes = {0, *acceptance.accepted_nodes}
        session.slots.extend(slot for node, slot in enumerate(tree_slots) if node in kept_nodes)
        self._slots.free(slot for node, slot in enumerate(tree_slots) if node not in kept_nodes)
        session.extend(acceptance.token_ids)
        session.last_used_s = self._clock_s()
        is_stopped = not set(acceptance.token_ids).isdisjoint(session.sampling.stop_token_ids)
        has_more = pending.num_steps_left > 1 and not is_stopped
        if has_more:
            pending.go_on()
            self._pending[session.session_id] = pending  # behind those that wait
        verdict = Verdict(
            base=base,
            token_ids=acceptance.token_ids,
            accepted_nodes=acceptance.accepted_nodes,
            log_probs=acceptance.log_probs,
            step_ms=step_ms,
            step_num_tokens=num_rows,
            has_more=has_more,
        )
        if pending.unsent is not None:
            verdict, pending.unsent = pending.unsent.joined(verdict), None
        if has_more and session.last_used_s - session.sent_s < self._config.stream_interval_s:
            pending.unsent = verdict
            return None
        session.sent_s = session.last_used_s
        return verdict

    def finish_early(self, item_ids: Collection[int]) -> None:
        """See ``Engine``. A prompt is read to its end: the next verdict is meant."""
        for pending in self._pending.values():
            if pending.item_id in item_ids:
                pending.num_steps_left = 1

    def has_more(self, result: Verdict | PromptProgress) -> bool:
        """See ``Engine``."""
        return isinstance(result, PromptProgress) or result.has_more

    def close_session(self, session_id: str) -> None:
        """See ``Engine``."""
        pending = self._pending.get(session_id)
        if pending is not None:
            self._fail(pending, SessionClosedError("the session was closed or opened anew"))
        elif session_id in self._sessions:
            self._drop(self._sessions[session_id])

    def expire_sessions(self) -> None:
        """See ``Engine``."""
        oldest_s = self._clock_s() - self._config.session_ttl_s
        for session in list(self._sessions.values()):
            if session.last_used_s < oldest_s and session.session_id not in self._pending:
                self._drop(session)

    def _fail(self, pending: PendingWork, error: SpecGroveError) -> None:
        """The session goes with the item: a router that still wants it replays."""
        del self._pending[pending.session.session_id]
        if pending.unsent is not None:
            self._ready.append((pending.item_id, pending.unsent))
        self._ready.append((pending.item_id, error))
        self._drop(pending.session)

    def _drop(self, session: Session) -> None:
        del self._sessions[session.session_id]
        self._slots.free(session.slots)

    def measure_step_ms(self, nums_tokens: list[int]) -> list[tuple[int, float]]:
        """Median step time by number of tokens, on slots that are free now; sizes that find no room are left out."""
        times: list[tuple[int, float]] = []
        if self._in_flight:
            return times
        for num_tokens in nums_tokens:
            if num_tokens <= self._slots.num_free:
                slots = self._slots.allocate(num_tokens)
                try:
                    times.append((num_tokens, measure_step_ms(self._runner, num_tokens, slots)))
                finally:
                    self._slots.free(slots)
        return times
