"""Who has KV slots: the sessions by seniority, and who gives way where slots are short. Owned by the engine.

A session is *admitted* where all its committed tokens find slots, with a reserve for everybody's growth. Sessions that wait are
admitted in the order in which they were opened, and nobody overtakes. Where the admitted outgrow the pool all the same, the youngest
gives its slots back and waits: its tokens stay here, and are computed again when there is room. So nobody fails for want of room, and
the oldest always gets on, because it may take from all others. (Were slots taken from whoever is idle, sessions would take
each other's in turns, and compute their prompts again and again.)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from llm_service.counts import VerifierCounts
from llm_service.session import Session
from specgrove.runtime.kv_slots import SlotPool

# So much may each session grow before somebody has to give way to another; less where that would be a good part of all slots.
_MAX_RESERVE_PER_SESSION = 32
_RESERVE_SHARE = 1 / 16
# A session that drafts comes back in less than this. After it anybody may have its slots: perhaps its router is gone.
_LONG_IDLE_S = 2.0


class Room:
    """All sessions of an engine, and all its KV slots. An admitted session's slots are in its ``slots``; a tree's are its pass's."""

    def __init__(self, num_slots: int, counts: VerifierCounts) -> None:
        self._counts = counts
        self._slots = SlotPool(num_slots)
        self._sessions: dict[str, Session] = {}
        self._seniorities = itertools.count()
        self._reserve_per_session = min(_MAX_RESERVE_PER_SESSION, int(num_slots * _RESERVE_SHARE))

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return self._slots.num_free

    def get(self, session_id: str) -> Session | None:
        """A session by its id."""
        return self._sessions.get(session_id)

    def open(self, session: Session, before: Session | None) -> None:
        """A new session, the youngest; or one opened anew, which has the place that it had ``before`` it was dropped."""
        session.seniority = next(self._seniorities) if before is None else before.seniority
        self._sessions[session.session_id] = session

    def drop(self, session: Session) -> None:
        """Forgets it."""
        del self._sessions[session.session_id]
        self._release(session)

    def admit(
        self, waiting: Iterable[Session], busy: Collection[str], in_flight: Collection[str], now_s: float
    ) -> None:
        """Admits sessions that wait, the oldest first, while there is room.

        ``busy`` are the ids of all sessions with an item under way, ``in_flight`` of those that a pass in flight computes.
        """
        for session in sorted(waiting, key=lambda session: session.seniority):
            victims = self._victims(session, busy, in_flight, now_s)
            if not self._give_way(victims, functools.partial(self._fits, session), in_flight):
                return
            session.is_admitted = True

    def _fits(self, session: Session, leaving: Collection[Session]) -> bool:
        """Whether there is room for all its tokens, once those that are ``leaving`` have given their slots back."""
        left = {id(other) for other in leaving}
        staying = [other for other in self._sessions.values() if other.is_admitted and id(other) not in left]
        if not staying:
            return True  # whoever is alone has the whole pool
        promised = sum(other.num_uncached + 1 for other in (*staying, session))
        num_free = self.num_free + _num_held(leaving)
        return promised + self._reserve_per_session * (len(staying) + 1) <= num_free

    def _are_free(self, num_slots: int, leaving: Collection[Session]) -> bool:
        """The same of a number of slots."""
        return num_slots <= self.num_free + _num_held(leaving)

    def take_spare(self, num_slots: int, busy: Collection[str], now_s: float) -> list[int] | None:
        """Slots that are free, or of sessions that have been idle for long; ``None`` and nothing taken where those don't suffice."""
        if (slots := self.take_for_now(num_slots)) is not None:
            return slots
        is_enough = self._give_way(self._idle(busy, now_s), functools.partial(self._are_free, num_slots), ())
        return self._slots.allocate(num_slots) if is_enough else None

    def take(
        self, session: Session, num_slots: int, busy: Collection[str], in_flight: Collection[str], now_s: float
    ) -> list[int] | None:
        """The same, also of those younger than ``session``, the youngest first; what passes in flight compute is not to be had yet."""
        victims = self._victims(session, busy, in_flight, now_s)
        is_enough = self._give_way(victims, functools.partial(self._are_free, num_slots), in_flight)
        return self._slots.allocate(num_slots) if is_enough else None

    def take_for_now(self, num_slots: int) -> list[int] | None:
        """Slots that are free now, to be given back with ``free``."""
        return self._slots.allocate(num_slots) if num_slots <= self.num_free else None

    def free(self, slots: Iterable[int]) -> None:
        """Gives a tree's slots back."""
        self._slots.free(slots)

    def cut(self, session: Session, num_slots: int) -> None:
        """Gives back what the session has beyond so many slots: nobody knows what is in them."""
        self._slots.free(session.slots[num_slots:])
        del session.slots[num_slots:]

    def _release(self, session: Session) -> None:
        self.cut(session, 0)
        session.is_admitted = False

    def _give_way(
        self,
        victims: Sequence[Session],
        suffices: Callable[[Collection[Session]], bool],
        in_flight: Collection[str],
    ) -> bool:
        """Takes the slots of as many ``victims``, in their order, as it takes; whether that is done.

        Where all of them together would not do nobody gives way: it would be in vain. One whose pass is under way does so after it.
        """
        if not suffices(victims):
            return False
        num_leaving = next(number for number in range(len(victims) + 1) if suffices(victims[:number]))
        leaving = victims[:num_leaving]
        ready = [victim for victim in leaving if victim.session_id not in in_flight]
        for victim in ready:
            self._release(victim)
        self._counts.num_preemptions += len(ready)
        return len(ready) == len(leaving)

    def _victims(
        self, claimant: Session, busy: Collection[str], in_flight: Collection[str], now_s: float
    ) -> list[Session]:
        """Who gives way to ``claimant``, in this order: those that have been idle for long; then those younger, the youngest first.

        Those whose pass is under way come last: the others need not be waited for.
        """
        idle = [session for session in self._idle(busy, now_s) if session is not claimant]
        known = {id(session) for session in idle}
        younger = [
            session
            for session in self._sessions.values()
            if session.is_admitted and session.seniority > claimant.seniority and id(session) not in known
        ]
        return idle + sorted(younger, key=lambda session: (session.session_id in in_flight, -session.seniority))

    def _idle(self, busy: Collection[str], now_s: float) -> list[Session]:
        """Those that have been idle for long, the longest first."""
        idle = [
            session
            for session in self._sessions.values()
            if session.is_admitted and session.session_id not in busy and session.last_used_s < now_s - _LONG_IDLE_S
        ]
        return sorted(idle, key=lambda session: session.last_used_s)


def _num_held(sessions: Iterable[Session]) -> int:
    return sum(len(session.slots) for session in sessions)
