"""An LLM replica in virtual time: whose turn it is in a pass, and when verdicts go out. Owned by ``Simulation``.

As in ``llm_service``: what comes while a pass runs is taken in at its end; all that is ready is in the next one, prompts share its
rows (``prompt_shares``); steps without trees follow one another by themselves, and tokens of those that end soon after one another share
a verdict (``Outbox``). Invariant: a session is in ``_pending`` from when its work is taken in to the work's last verdict.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.fleet.events import Events
from benchmarks.fleet.shape import FleetShape, Speculation
from benchmarks.fleet.times import Rows, Times
from benchmarks.fleet.workload import Arrival
from llm_service.row_shares import prompt_shares

_ROUNDING_S = 1e-9


@dataclass(slots=True, eq=False)
class Session:
    """A request under way."""

    arrival: Arrival
    number: int
    num_prompt_left: int
    token_times_s: list[float] = field(default_factory=list)
    num_decided: int = 0  # tokens; told to the client later
    num_unsent: int = 0  # of these, those that wait for the next verdict
    sent_s: float = -math.inf  # when the last one went out
    num_steps_left: int = 0  # of the work under way
    has_tree: bool = False
    num_levels_left: int = 0
    llm: LlmReplica | None = None  # where it is

    @property
    def num_slots(self) -> int:
        """KV slots that it takes."""
        return self.arrival.prompt_len + self.arrival.output_len

    @property
    def num_left(self) -> int:
        """Tokens still to be decided."""
        return self.arrival.output_len - self.num_decided

    @property
    def context_len(self) -> int:
        """Tokens that are computed, and the next row's own."""
        return self.arrival.prompt_len - self.num_prompt_left + self.num_decided


@dataclass(frozen=True, slots=True)
class _Part:
    """A session's rows in a pass: some of its prompt, then those that are asked for a token."""

    session: Session
    chunk_len: int
    num_asked: int
    context_len: int


@dataclass(frozen=True, slots=True)
class _Pass:
    parts: Sequence[_Part]
    ends_s: float


class LlmReplica:
    """``send`` gets a session and the number of tokens of its verdict."""

    def __init__(
        self,
        shape: FleetShape,
        times: Times,
        speculation: Speculation | None,
        events: Events,
        rng: random.Random,
        send: Callable[[Session, int], None],
    ) -> None:
        self._shape, self._times, self._speculation = shape, times, speculation
        self._events, self._rng, self._send = events, rng, send
        self._sessions: list[Session] = []
        self._come: deque[Session] = deque()  # since the pass in flight began
        self._waiting: deque[Session] = deque()  # for slots
        self._pending: list[Session] = []
        self._passes: deque[_Pass] = deque()  # in flight, two at most
        self._num_slots_taken = 0
        self.busy_s = 0.0

    @property
    def load(self) -> tuple[int, int]:
        """What routers compare replicas by: tokens of the sessions here, then the number of these."""
        return sum(each.arrival.prompt_len + each.num_decided for each in self._sessions), len(self._sessions)

    def take(self, session: Session) -> None:
        """Work of a session that is new, or was told all verdicts of its last work."""
        if session.llm is None:
            session.llm = self
            self._sessions.append(session)
        self._come.append(session)
        if not self._passes and len(self._come) == 1:
            self._events.at(self._events.now_s, self._turn)  # behind what comes at the same time: in one message

    def _turn(self) -> None:
        self._take_in()
        if not self._passes and (parts := self._planned()):
            self._begin(parts)
        if self._may_go_ahead():
            parts = [_Part(part.session, 0, 1, part.session.context_len + 1) for part in self._passes[0].parts]
            self._begin(parts)

    def _take_in(self) -> None:
        while self._come:
            session = self._come.popleft()
            if session.num_decided:
                self._pending.append(session)
                continue
            for other in self._pending:  # the prompt's passes may take long
                self._put(other)
            self._waiting.append(session)
        while self._waiting and self._num_slots_taken + self._waiting[0].num_slots <= self._shape.num_slots:
            session = self._waiting.popleft()
            self._num_slots_taken += session.num_slots
            self._pending.append(session)

    def _planned(self) -> list[_Part]:
        """A prompt's last token is no part of its chunks: its row is asked, and comes with the last one."""
        nodes = self._speculation.num_nodes if self._speculation else 0
        lens = [max(session.num_prompt_left - 1, 0) for session in self._pending]
        tree_budget = self._shape.max_num_tree_rows
        parts = []
        for session, num_uncached, chunk_len in zip(
            self._pending, lens, prompt_shares(lens, self._shape.max_num_chunk_tokens), strict=True
        ):
            num_asked = 1 + nodes if session.has_tree else 1
            if chunk_len < num_uncached or num_asked > tree_budget:
                num_asked = 0
            tree_budget -= num_asked
            if chunk_len or num_asked:
                parts.append(_Part(session, chunk_len, num_asked, session.context_len))
        return parts

    def _may_go_ahead(self) -> bool:
        """As ``Pass.may_be_followed``: all that is pending is in the only pass in flight, with one asked row, and goes on by itself.

        Not while a session is between two works: it would wait.
        """
        if not self._shape.has_passes_ahead or len(self._passes) != 1:
            return False
        parts = self._passes[0].parts
        goes_on = all(part.num_asked == 1 and part.session.num_steps_left > 1 for part in parts)
        num_between = len(self._sessions) - len(self._pending) - len(self._waiting)
        return goes_on and num_between == 0 and {part.session for part in parts} == set(self._pending)

    def _begin(self, parts: Sequence[_Part]) -> None:
        starts_s = self._passes[-1].ends_s if self._passes else self._events.now_s
        pass_s = self._times.pass_of(_rows_of(parts)) / 1e3
        self.busy_s += pass_s
        self._passes.append(_Pass(parts, starts_s + pass_s))
        self._events.at(starts_s + pass_s, self._end_pass)

    def _end_pass(self) -> None:
        for part in self._passes.popleft().parts:
            part.session.num_prompt_left -= min(part.chunk_len + bool(part.num_asked), part.session.num_prompt_left)
            if part.num_asked:
                self._decide(part.session)
        self._turn()

    def _decide(self, session: Session) -> None:
        num_tokens = 1
        if session.has_tree:
            assert self._speculation is not None
            num_tokens = min(self._speculation.num_tokens(self._rng), session.num_left)
        session.num_decided += num_tokens
        session.num_unsent += num_tokens
        session.num_steps_left -= 1
        session.has_tree = False
        self._pending.remove(session)
        if session.num_left == 0:
            self._sessions.remove(session)
            self._num_slots_taken -= session.num_slots
        elif session.num_steps_left:
            self._pending.append(session)  # behind those that wait
            if self._events.now_s - session.sent_s < self._shape.stream_interval_ms / 1e3 - _ROUNDING_S:
                return
        self._put(session)

    def _put(self, session: Session) -> None:
        if not session.num_unsent:
            return
        num_tokens, session.num_unsent = session.num_unsent, 0
        session.sent_s = self._events.now_s
        self._send(session, num_tokens)


def _rows_of(parts: Sequence[_Part]) -> Rows:
    rows = Rows(num_works=len(parts))
    for part in parts:
        num_rows = part.chunk_len + part.num_asked
        if part.chunk_len:
            rows.num_of_prompts += num_rows
            rows.num_seen_by_prompts += num_rows * part.context_len
        else:
            rows.num_asked += num_rows
            rows.num_seen += num_rows * part.context_len
    return rows
