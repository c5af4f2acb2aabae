"""Routers, LLM replicas and SSM replicas in virtual time: who waits for whom, and how long.

A discrete-event simulation. What is computed is not: passes take the times that were measured (``Times``). It knows what the real services
do with their work: what an LLM replica does is in ``llm_replica``; a tree is drafted level by level, of all sessions of an SSM replica
together; a router handles one thing at a time. It knows nothing of the machine: services that share processors in fact must have been
measured so.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.fleet.events import Events
from benchmarks.fleet.llm_replica import LlmReplica, Session
from benchmarks.fleet.shape import FleetShape, Speculation
from benchmarks.fleet.times import Times
from benchmarks.fleet.workload import Arrival, Served


@dataclass(slots=True)
class Busy:
    """Shares of the time in which they worked, on average over the services of a kind."""

    routers: float = 0.0
    llms: float = 0.0
    ssms: float = 0.0


class _Router:
    """One thing after another."""

    def __init__(self) -> None:
        self.free_at_s = 0.0
        self.busy_s = 0.0

    def done_at(self, now_s: float, ms: float) -> float:
        self.free_at_s = max(self.free_at_s, now_s) + ms / 1e3
        self.busy_s += ms / 1e3
        return self.free_at_s


class _Ssm:
    """``ready`` are sessions whose next level waits."""

    def __init__(self) -> None:
        self.ready: deque[Session] = deque()
        self.is_busy = False
        self.busy_s = 0.0


class Simulation:
    """One run. ``run`` gives the requests with the times of their tokens."""

    def __init__(self, shape: FleetShape, times: Times, speculation: Speculation | None = None, seed: int = 0) -> None:
        """Without ``speculation`` decoding is incremental."""
        self._shape, self._times, self._speculation = shape, times, speculation
        self._events, rng = Events(), random.Random(seed)
        self._routers = [_Router() for _ in range(shape.num_routers)]
        self._llms = [
            LlmReplica(shape, times, speculation, self._events, rng, self._send) for _ in range(shape.num_llms)
        ]
        self._ssms = [_Ssm() for _ in range(shape.num_ssms)]
        self._served: list[Served] = []
        self.busy = Busy()

    def run(self, arrivals: Sequence[Arrival]) -> list[Served]:
        """Till all are served, in the order of their ends. Raises ``ValueError`` for a request that fits no replica."""
        for number, arrival in enumerate(arrivals):
            session = Session(arrival, number, arrival.prompt_len)
            if session.num_slots > self._shape.num_slots:
                raise ValueError(
                    f"a request of {session.num_slots} tokens needs more KV slots than the {self._shape.num_slots} of a replica"
                )
            self._events.at(arrival.at_s + self._times.client_ms / 1e3, partial(self._arrive, session))
        self._events.run()
        span_s = self._events.now_s - (arrivals[0].at_s if arrivals else 0.0)
        if span_s > 0:
            self.busy = Busy(
                *(
                    sum(each.busy_s for each in kind) / len(kind) / span_s
                    for kind in (self._routers, self._llms, self._ssms)
                )
            )
        return self._served

    def _router(self, session: Session) -> _Router:
        return self._routers[session.number % len(self._routers)]

    def _ssm(self, session: Session) -> _Ssm:
        return self._ssms[session.number % len(self._ssms)]

    @property
    def _hop_s(self) -> float:
        return self._times.hop_ms / 1e3

    def _arrive(self, session: Session) -> None:
        ready_s = self._router(session).done_at(self._events.now_s, self._times.request_ms)
        self._ask(session, ready_s)

    def _ask(self, session: Session, ready_s: float) -> None:
        """For a tree's step, or for as many without trees as the router lets the LLM replica make by itself."""
        is_ahead = self._speculation is None
        session.num_steps_left = min(self._shape.max_num_steps_ahead, session.num_left) if is_ahead else 1
        self._events.at(ready_s + self._hop_s, partial(self._reach, session))

    def _reach(self, session: Session) -> None:
        """The session's replica, or a new one's: that with the least to work on."""
        llm = session.llm or min(self._llms, key=lambda llm: llm.load)
        llm.take(session)

    def _send(self, session: Session, num_tokens: int) -> None:
        has_more = session.num_steps_left > 0
        told_s = self._events.now_s + self._hop_s
        self._events.at(told_s, partial(self._tell, session, num_tokens, has_more=has_more))

    def _tell(self, session: Session, num_tokens: int, *, has_more: bool) -> None:
        told_s = self._router(session).done_at(self._events.now_s, self._times.verdict_ms)
        session.token_times_s += [told_s] * num_tokens
        if len(session.token_times_s) == session.arrival.output_len:
            self._served.append(Served(session.arrival, tuple(session.token_times_s)))
        elif self._speculation is not None:
            session.num_levels_left = self._speculation.num_levels
            self._events.at(told_s + self._hop_s, partial(self._draft, session))
        elif not has_more:
            self._ask(session, told_s)

    def _draft(self, session: Session) -> None:
        ssm = self._ssm(session)
        ssm.ready.append(session)
        self._start_level(ssm)

    def _start_level(self, ssm: _Ssm) -> None:
        if ssm.is_busy or not ssm.ready:
            return
        assert self._speculation is not None
        sessions, ssm.ready = list(ssm.ready), deque()
        ssm.is_busy = True
        ms = self._times.level_of(len(sessions) * self._speculation.rows_per_level)
        ssm.busy_s += ms / 1e3
        self._events.at(self._events.now_s + ms / 1e3, partial(self._end_level, ssm, sessions))

    def _end_level(self, ssm: _Ssm, sessions: Sequence[Session]) -> None:
        ssm.is_busy = False
        for session in sessions:
            session.num_levels_left -= 1
            if session.num_levels_left:
                ssm.ready.append(session)
            else:
                self._events.at(self._events.now_s + self._hop_s, partial(self._send_tree, session))
        self._start_level(ssm)

    def _send_tree(self, session: Session) -> None:
        session.has_tree = True
        self._ask(session, self._router(session).done_at(self._events.now_s, self._times.verdict_ms))
