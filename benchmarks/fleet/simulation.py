"""Routers, LLM replicas and SSM replicas in virtual time: who waits for whom, and how long.

A discrete-event simulation. What is computed is not: passes take the times that were measured (``Times``). It knows what the real services
do with their work: an LLM replica takes all that is ready into its next pass, up to so many rows of trees and of prompts; without trees
it makes step after step by itself; a tree is drafted level by level, of all sessions of an SSM replica together; a router handles one
thing at a time. It knows nothing of the machine: services that share processors in fact must have been measured so.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.fleet.times import Rows, Times
from benchmarks.fleet.workload import Arrival, Served

ENDLESS = 1 << 30


@dataclass(frozen=True, slots=True)
class Speculation:
    """What trees are like, as measured: nodes and levels of one, and how many tokens a step gives, the bonus token counted."""

    num_nodes: int
    num_levels: int
    tokens_per_step: float
    rows_per_level: int = 3

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.num_levels < 1 or self.rows_per_level < 1:
            raise ValueError("a tree has a node and a level at least")
        if not 1 <= self.tokens_per_step <= self.num_levels + 1:
            raise ValueError(
                f"a step of {self.num_levels} levels gives 1 to {self.num_levels + 1} tokens, got {self.tokens_per_step:g}"
            )


@dataclass(frozen=True, slots=True)
class FleetShape:
    """How many of each there are, and what an LLM replica takes."""

    num_routers: int = 1
    num_llms: int = 1
    num_ssms: int = 1
    num_slots: int = ENDLESS
    """KV slots of an LLM replica: a session takes as many as its prompt and output have tokens, and waits for them."""
    max_num_chunk_tokens: int = 256
    max_num_tree_rows: int = 512

    def __post_init__(self) -> None:
        if min(self.num_routers, self.num_llms, self.num_ssms) < 1:
            raise ValueError("there must be a router, an LLM replica and an SSM replica at least")


@dataclass(slots=True)
class Busy:
    """Shares of the time in which they worked, on average over the services of a kind."""

    routers: float = 0.0
    llms: float = 0.0
    ssms: float = 0.0


@dataclass(slots=True)
class _Session:
    arrival: Arrival
    number: int
    num_prompt_left: int
    token_times_s: list[float] = field(default_factory=list)
    num_decided: int = 0  # tokens; told to the client a little later
    has_tree: bool = False
    num_levels_left: int = 0
    llm: _Worker | None = None  # where it is

    @property
    def num_slots(self) -> int:
        return self.arrival.prompt_len + self.arrival.output_len

    @property
    def context_len(self) -> int:
        return self.arrival.prompt_len - self.num_prompt_left + self.num_decided


class _Router:
    """One thing after another."""

    def __init__(self) -> None:
        self.free_at_s = 0.0
        self.busy_s = 0.0

    def done_at(self, now_s: float, ms: float) -> float:
        self.free_at_s = max(self.free_at_s, now_s) + ms / 1e3
        self.busy_s += ms / 1e3
        return self.free_at_s


class _Worker:
    """What computes passes: an LLM or an SSM replica. ``ready`` are sessions whose work waits."""

    def __init__(self) -> None:
        self.ready: deque[_Session] = deque()
        self.is_busy = False
        self.busy_s = 0.0
        self.num_sessions = 0
        self.num_slots_taken = 0
        self.waiting: deque[_Session] = deque()  # for slots


class Simulation:
    """One run. ``run`` gives the requests with the times of their tokens."""

    def __init__(self, shape: FleetShape, times: Times, speculation: Speculation | None = None, seed: int = 0) -> None:
        """Without ``speculation`` decoding is incremental."""
        self._shape, self._times, self._speculation = shape, times, speculation
        self._random = random.Random(seed)
        self._routers = [_Router() for _ in range(shape.num_routers)]
        self._llms = [_Worker() for _ in range(shape.num_llms)]
        self._ssms = [_Worker() for _ in range(shape.num_ssms)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now_s = 0.0
        self._served: list[Served] = []
        self.busy = Busy()

    def run(self, arrivals: Sequence[Arrival]) -> list[Served]:
        """Till all are served, in the order of their ends. Raises ``ValueError`` for a request that fits no replica."""
        for number, arrival in enumerate(arrivals):
            session = _Session(arrival, number, arrival.prompt_len)
            if session.num_slots > self._shape.num_slots:
                raise ValueError(
                    f"a request of {session.num_slots} tokens needs more KV slots than the {self._shape.num_slots} of a replica"
                )
            self._at(arrival.at_s, partial(self._arrive, session))
        while self._events:
            self._now_s, _, happen = heapq.heappop(self._events)
            happen()
        span_s = self._now_s - (arrivals[0].at_s if arrivals else 0.0)
        if span_s > 0:
            self.busy = Busy(
                *(
                    sum(each.busy_s for each in kind) / len(kind) / span_s
                    for kind in (self._routers, self._llms, self._ssms)
                )
            )
        return self._served

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), happen))

    def _router(self, session: _Session) -> _Router:
        return self._routers[session.number % len(self._routers)]

    def _ssm(self, session: _Session) -> _Worker:
        return self._ssms[session.number % len(self._ssms)]

    @property
    def _hop_s(self) -> float:
        return self._times.hop_ms / 1e3

    def _arrive(self, session: _Session) -> None:
        ready_s = self._router(session).done_at(self._now_s, self._times.request_ms)
        self._at(ready_s + self._hop_s, partial(self._open, session))

    def _open(self, session: _Session) -> None:
        """At the replica with the fewest sessions, as soon as it has the slots."""
        llm = session.llm = min(self._llms, key=lambda llm: llm.num_sessions)
        llm.num_sessions += 1
        llm.waiting.append(session)
        self._admit(llm)

    def _admit(self, llm: _Worker) -> None:
        while llm.waiting and llm.num_slots_taken + llm.waiting[0].num_slots <= self._shape.num_slots:
            session = llm.waiting.popleft()
            llm.num_slots_taken += session.num_slots
            llm.ready.append(session)
        self._start_pass(llm)

    def _start_pass(self, llm: _Worker) -> None:
        if llm.is_busy or not llm.ready:
            return
        nodes = self._speculation.num_nodes if self._speculation else 0
        chunk_budget, tree_budget = self._shape.max_num_chunk_tokens, self._shape.max_num_tree_rows
        parts: list[tuple[_Session, int]] = []
        left: deque[_Session] = deque()
        pass_rows = Rows()
        for session in llm.ready:
            chunk = min(session.num_prompt_left, chunk_budget)
            rows = 1 + nodes if session.has_tree else 1
            is_whole = chunk == session.num_prompt_left
            if (chunk == 0 and session.num_prompt_left) or (is_whole and rows > tree_budget):
                left.append(session)
                continue
            chunk_budget -= chunk
            tree_budget -= rows if is_whole else 0
            pass_rows.num_works += 1
            if chunk:
                pass_rows.num_of_prompts += chunk
                pass_rows.num_seen_by_prompts += chunk * session.context_len
            else:
                pass_rows.num_asked += rows
                pass_rows.num_seen += rows * session.context_len
            parts.append((session, chunk))
        llm.ready = left
        llm.is_busy = True
        ms = self._times.pass_of(pass_rows)
        llm.busy_s += ms / 1e3
        self._at(self._now_s + ms / 1e3, partial(self._end_pass, llm, parts))

    def _end_pass(self, llm: _Worker, parts: Sequence[tuple[_Session, int]]) -> None:
        llm.is_busy = False
        for session, chunk in parts:
            if chunk and chunk < session.num_prompt_left:
                session.num_prompt_left -= chunk
                llm.ready.append(session)
                continue
            session.num_prompt_left = 0
            self._decide(llm, session)
        self._admit(llm)

    def _decide(self, llm: _Worker, session: _Session) -> None:
        num_left = session.arrival.output_len - session.num_decided
        num_tokens = min(self._num_tokens() if session.has_tree else 1, num_left)
        session.num_decided += num_tokens
        has_ended = session.num_decided == session.arrival.output_len
        session.has_tree = False
        told_s = self._now_s + self._hop_s
        self._at(told_s, partial(self._tell, session, num_tokens, has_ended=has_ended))
        if has_ended:
            llm.num_sessions -= 1
            llm.num_slots_taken -= session.num_slots
        elif self._speculation is None:
            llm.ready.append(session)

    def _num_tokens(self) -> int:
        """Of one step: so many whole ones, and one more as often as makes the mean."""
        assert self._speculation is not None
        whole = int(self._speculation.tokens_per_step)
        return whole + (self._random.random() < self._speculation.tokens_per_step - whole)

    def _tell(self, session: _Session, num_tokens: int, *, has_ended: bool) -> None:
        told_s = self._router(session).done_at(self._now_s, self._times.verdict_ms)
        session.token_times_s += [told_s] * num_tokens
        if has_ended:
            self._served.append(Served(session.arrival, tuple(session.token_times_s)))
        elif self._speculation is not None:
            session.num_levels_left = self._speculation.num_levels
            self._at(told_s + self._hop_s, partial(self._draft, session))

    def _draft(self, session: _Session) -> None:
        ssm = self._ssm(session)
        ssm.ready.append(session)
        self._start_level(ssm)

    def _start_level(self, ssm: _Worker) -> None:
        if ssm.is_busy or not ssm.ready:
            return
        assert self._speculation is not None
        sessions, ssm.ready = list(ssm.ready), deque()
        ssm.is_busy = True
        ms = self._times.level_of(len(sessions) * self._speculation.rows_per_level)
        ssm.busy_s += ms / 1e3
        self._at(self._now_s + ms / 1e3, partial(self._end_level, ssm, sessions))

    def _end_level(self, ssm: _Worker, sessions: Sequence[_Session]) -> None:
        ssm.is_busy = False
        for session in sessions:
            session.num_levels_left -= 1
            if session.num_levels_left:
                ssm.ready.append(session)
            else:
                self._at(self._now_s + self._hop_s, partial(self._send_tree, session))
        self._start_level(ssm)

    def _send_tree(self, session: _Session) -> None:
        sent_s = self._router(session).done_at(self._now_s, self._times.verdict_ms)
        self._at(sent_s + self._hop_s, partial(self._verify, session))

    def _verify(self, session: _Session) -> None:
        session.has_tree = True
        assert session.llm is not None
        session.llm.ready.append(session)
        self._start_pass(session.llm)
