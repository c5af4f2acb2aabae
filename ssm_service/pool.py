"""The pool's engine: sessions, and every SSM's part of each draft. One ``step`` runs a pass of each SSM with work.

Where no draft is under way, trees that were answered grow on, and are told again as they do: the verifier works on them meanwhile.

Driven by a ``StepLoop``, on whose thread everything here happens. Sessions are a cache of the router's committed tokens: they
may be dropped at any time, and the router then sends the tokens again. An SSM that can't draft costs its tree, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from specgrove.config import MAX_BEAM_WIDTH, MAX_SESSION_ID_LEN, NUM_TOKEN_IDS
from specgrove.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    SessionClosedError,
    SpecGroveError,
    StaleBaseError,
)
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftedTree, DraftWork, SsmTime, TreeShape
from specgrove.ranges import MAX_CACHE_SALT_LEN
from specgrove.runtime.idle_check import IdleCheck
from ssm_service.config import PoolConfig
from ssm_service.counts import PoolCounts
from ssm_service.drafts import EndedDraft
from ssm_service.grafting import grafted
from ssm_service.pass_drafter import PassDrafter
from ssm_service.pool_ssms import AnySsm, PoolSsms

Result = tuple[int, Draft | SpecGroveError]


@dataclass(slots=True)
class _Pending:
    """An item under way, and the SSMs it waits for."""

    item_id: int
    started_s: float
    deadline_s: float | None
    shape: TreeShape
    ahead_s: float
    is_answered: bool = False  # its trees have been told, and grow on
    lookups: list[str] = field(default_factory=list)  # that draft for it
    waiting_for: set[str] = field(default_factory=set)
    trees: list[DraftedTree] = field(default_factory=list)
    spent_s: dict[str, float] = field(default_factory=dict)  # by SSM
    num_levels: dict[str, int] = field(default_factory=dict)

    def spend(self, name: str, seconds: float) -> None:
        """An SSM worked so long on it, or for it and others at once."""
        self.spent_s[name] = self.spent_s.get(name, 0.0) + seconds

    def times(self) -> tuple[SsmTime, ...]:
        """Of all SSMs that were asked."""
        return tuple(
            SsmTime(name, spent_s * 1e3, self.num_levels.get(name, 0)) for name, spent_s in self.spent_s.items()
        )


@dataclass(slots=True)
class _Session:
    session_id: str
    sampling: DraftSampling | None = None
    has_other_rules: bool = False
    cache_salt: str | None = None
    token_ids: list[int] = field(default_factory=list)
    last_used_s: float = 0.0
    pending: _Pending | None = None


class DrafterPool:
    """The ``Engine`` of the SSM service."""

    def __init__(
        self,
        ssms: Sequence[AnySsm],
        config: PoolConfig,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ssms = PoolSsms(ssms)
        self._config = config
        self._clock_s = clock_s
        self._sessions: dict[str, _Session] = {}
        self._finished: list[Result] = []
        self._ahead: set[str] = set()  # sessions whose item is answered, and trees grow on
        self.counts = PoolCounts(self.ssms.names, {name: ssm.read_counts for name, ssm in self.ssms.neural.items()})
        self._idle_check = IdleCheck(0, clock_s)

    @property
    def num_sessions(self) -> int:
        """Sessions held."""
        return len(self._sessions)

    def has_work(self) -> bool:
        """See ``Engine``."""
        return bool(self._finished or self._ahead) or any(ssm.has_work() for ssm in self.ssms.neural.values())

    def add(self, item_id: int, work: DraftWork) -> None:
        """See ``Engine``. Lookups are answered at once. The next item of a session ends one that may go ahead; one that may not is to be
        answered first."""
        self._check(work)
        if work.base == 0:
            self.close_session(work.session_id)
        session = self._sessions.get(work.session_id)
        held_len = len(session.token_ids) if session else 0
        if session is not None and session.pending is not None and session.pending.ahead_s == 0:
            self.close_session(work.session_id)
            raise StaleBaseError(0)
        if work.base != held_len or (work.base > 0 and self.ssms.take_losses(work)):
            raise StaleBaseError(held_len)
        if session is not None and session.pending is not None:
            self._end_ahead(session, session.pending)
        if session is None:
            session = _Session(work.session_id, work.sampling, work.has_other_rules, work.cache_salt)
            self._sessions[work.session_id] = session
        session.token_ids.extend(work.new_token_ids)
        now_s = session.last_used_s = self._clock_s()
        deadline_s = None if work.timeout_ms is None else now_s + work.timeout_ms / 1e3
        pending = _Pending(item_id, now_s, deadline_s, work.shape, work.ahead_ms / 1e3)
        session.pending = pending
        for name in dict.fromkeys(work.ssms or self.ssms.names):
            started_s = time.perf_counter()
            self._begin(name, session, pending, work)
            pending.spend(name, time.perf_counter() - started_s)
        self._finish_if_done(session)

    def _begin(self, name: str, session: _Session, pending: _Pending, work: DraftWork) -> None:
        """One SSM's part: those without weights have it at once."""
        session_id, token_ids, sampling, ssms = session.session_id, session.token_ids, session.sampling, self.ssms
        if name in ssms.hidden:
            ssms.hidden[name].read_states(session_id, work.hidden_states, is_tested=not session.has_other_rules)
        if name in ssms.lookup:
            self._collect(pending, name, ssms.lookup[name].draft(session_id, token_ids, work.shape, sampling))
            pending.lookups.append(name)
        elif name in ssms.recycle:
            tree = ssms.recycle[name].draft(session_id, token_ids, work.shape, sampling, work.row_top_k)
            self._collect(pending, name, tree)
        else:
            ahead_s, salt = pending.ahead_s, session.cache_salt
            if ssms.neural[name].begin(session_id, token_ids, work.shape, sampling, ahead_s, salt):
                pending.waiting_for.add(name)

    def _check(self, work: DraftWork) -> None:
        config = self._config
        if not 1 <= len(work.session_id) <= MAX_SESSION_ID_LEN:
            raise InvalidRequestError.of("session_id", f"must have 1 to {MAX_SESSION_ID_LEN} characters")
        if work.base == 0 and not work.new_token_ids:
            raise InvalidRequestError.of("new_token_ids", "base 0 must come with all committed tokens")
        if any(not 0 <= token_id < NUM_TOKEN_IDS for token_id in work.new_token_ids):
            raise InvalidRequestError.of("new_token_ids", f"ids must be from 0 to {NUM_TOKEN_IDS - 1}")
        if not 0 <= work.shape.max_num_nodes <= config.max_num_nodes:
            raise InvalidRequestError.of("max_num_nodes", f"must be from 0 to {config.max_num_nodes}")
        if not 0 <= work.shape.max_depth <= config.max_depth:
            raise InvalidRequestError.of("max_depth", f"must be from 0 to {config.max_depth}")
        if work.cache_salt is not None and len(work.cache_salt) > MAX_CACHE_SALT_LEN:
            raise InvalidRequestError.of("cache_salt", f"must have at most {MAX_CACHE_SALT_LEN} characters")
        if work.shape.beam_width is not None and not 1 <= work.shape.beam_width <= MAX_BEAM_WIDTH:
            raise InvalidRequestError.of("beam_width", f"must be from 1 to {MAX_BEAM_WIDTH}, or 0 for the SSM's own")
        self.ssms.check(work)

    def step(self) -> list[Result]:
        """See ``Engine``."""
        now_s = self._clock_s()
        for session in list(self._sessions.values()):
            pending = session.pending
            if pending is not None and pending.deadline_s is not None and now_s > pending.deadline_s:
                if pending.is_answered:
                    self._end_ahead(session, pending)
                    continue
                self._fail(
                    session, pending, DeadlineExceededError("the item's time ran out before its trees were drafted")
                )
        neural = self.ssms.neural.values()
        # No draft waits for a pass that only works ahead.
        self._run_passes([ssm for ssm in neural if ssm.has_drafts] or [ssm for ssm in neural if ssm.has_work()])
        self._tell_grown()
        finished, self._finished = self._finished, []
        return finished

    def _run_passes(self, working: Sequence[PassDrafter[Any]]) -> None:
        begun = []
        for ssm in working:
            num_rows, num_inner, started_s = ssm.num_rows, ssm.num_inner_passes, time.perf_counter()
            ssm.start_pass()
            begun.append((ssm.num_rows - num_rows, num_inner, time.perf_counter() - started_s))
        for ssm, (num_rows, num_inner, beginning_s) in zip(working, begun, strict=True):
            started_s = time.perf_counter()
            drafted = ssm.finish_pass()
            spent_s = beginning_s + time.perf_counter() - started_s
            num_passes = 1 + ssm.num_inner_passes - num_inner
            for _ in range(num_passes):
                self.counts.pass_s[ssm.name].observe(spent_s / num_passes)
            if num_passes == 1:
                ssm.row_times.observe(num_rows, spent_s * 1e3)
            self._spend(ssm.name, spent_s)
            for ended in drafted:
                self._take(ssm.name, self._sessions[ended.session_id], ended)

    def _spend(self, name: str, pass_s: float) -> None:
        """All that wait for the SSM have waited so long."""
        for session in self._sessions.values():
            if session.pending is not None and name in session.pending.waiting_for:
                session.pending.spend(name, pass_s)

    def _tell_grown(self) -> None:
        """Of sessions whose trees grow on: those that have grown, and which have ended."""
        grown: dict[str, list[DraftedTree]] = {}
        for ssm in self.ssms.neural.values():
            for session_id, tree in ssm.take_grown():
                grown.setdefault(session_id, []).append(DraftedTree(ssm.name, tree))
        for session_id in list(self._ahead):
            session = self._sessions[session_id]
            assert session.pending is not None
            if session_id in grown:
                draft = Draft(len(session.token_ids), tuple(grown[session_id]), 0.0, has_more=True)
                self._finished.append((session.pending.item_id, draft))
            if not self._is_growing(session_id):
                self._end_ahead(session, session.pending)

    def _is_growing(self, session_id: str) -> bool:
        return any(ssm.is_growing(session_id) for ssm in self.ssms.neural.values())

    def _end_ahead(self, session: _Session, pending: _Pending) -> None:
        """Ends an item that may go ahead, answered or not: the session goes on with what there is."""
        session.pending = None
        self._ahead.discard(session.session_id)
        for ssm in self.ssms.neural.values():
            ssm.stop(session.session_id)
        self._finished.append((pending.item_id, Draft(len(session.token_ids), (), 0.0)))

    def _take(self, name: str, session: _Session, ended: EndedDraft) -> None:
        pending = session.pending
        assert pending is not None
        pending.waiting_for.discard(name)
        pending.num_levels[name] = ended.num_levels
        self._collect(pending, name, ended.tree)
        self._finish_if_done(session)

    def _collect(self, pending: _Pending, name: str, tree: TokenTree) -> None:
        if tree.num_nodes > 1:
            self.counts.add_tree(name, tree.num_nodes - 1)
            pending.trees.append(DraftedTree(name, tree))

    def _finish_if_done(self, session: _Session) -> None:
        pending = session.pending
        if pending is not None and not pending.waiting_for:
            goes_on = self._is_growing(session.session_id)
            if goes_on:
                pending.is_answered = True
                self._ahead.add(session.session_id)
            else:
                session.pending = None
            self._graft(session, pending)
            draft_s = self._clock_s() - pending.started_s
            self.counts.draft_s.observe(draft_s)
            trees = tuple(sorted(pending.trees, key=lambda drafted: self.ssms.names.index(drafted.ssm)))
            draft = Draft(len(session.token_ids), trees, draft_s * 1e3, goes_on, pending.times())
            self._finished.append((pending.item_id, draft))

    def _graft(self, session: _Session, pending: _Pending) -> None:
        """Below the trees of SSMs with weights; they are all there."""
        for name in pending.lookups:
            started_s, lookup = time.perf_counter(), self.ssms.lookup[name]
            found = grafted(
                pending.trees, lookup, session.session_id, session.token_ids, pending.shape, session.sampling
            )
            pending.spend(name, time.perf_counter() - started_s)
            if found is not None:
                pending.trees = [drafted for drafted in pending.trees if drafted.ssm != name] + [found]

    def finish_early(self, item_ids: Collection[int]) -> None:
        """See ``Engine``: every item has one result."""

    def has_more(self, result: Draft) -> bool:
        """See ``Engine``."""
        return result.has_more

    def close_session(self, session_id: str) -> None:
        """See ``Engine``."""
        session = self._sessions.get(session_id)
        if session is None:
            return
        if session.pending is not None:
            self._fail(session, session.pending, SessionClosedError("the session was closed or opened anew"))
        else:
            self._drop(session)

    def expire_sessions(self) -> None:
        """See ``Engine``."""
        oldest_s = self._clock_s() - self._config.session_ttl_s
        for session in list(self._sessions.values()):
            if session.pending is None and session.last_used_s < oldest_s:
                self._drop(session)
        if not self.has_work() and self._idle_check.is_due(self.counts.num_passes):
            self.ssms.check_slots()  # what it raises makes the loop begin anew

    def reset(self) -> None:
        """See ``Engine``."""
        self.ssms.reset()  # first: sessions that are dropped now share nothing, whatever is wrong with the slots
        for session in list(self._sessions.values()):
            self._drop(session)
        self._finished = []

    def _fail(self, session: _Session, pending: _Pending, error: SpecGroveError) -> None:
        self._finished.append((pending.item_id, error))
        self._drop(session)

    def _drop(self, session: _Session) -> None:
        del self._sessions[session.session_id]
        self._ahead.discard(session.session_id)
        self.ssms.drop(session.session_id)
