"""Who has KV slots: the sessions by seniority, the prefix cache, and who gives way where slots are short. Owned by the engine.

A session is *admitted* where all its committed tokens find slots, with a reserve for everybody's growth. Sessions that wait are
admitted in the order in which they were opened, and nobody overtakes. Where the admitted outgrow the pool all the same, the youngest
gives its slots back and waits: its tokens stay here, and are computed again when there is room. So nobody fails for want of room, and
the oldest always gets on, because it may take from all others. (Were slots taken from whoever is idle, for however long, sessions would
take each other's in turns, and compute their prompts again and again. One that nobody wants any more is closed: by its router, with its
router's stream, or after its time.)

What sessions have computed they share by the prefix cache, and what they give back stays there until somebody needs the slots
(``SharedSlots``). So nobody gives way while the cache has slots that no session holds. Invariant: a slot is free, or one session's, or
the prefix cache's, or a tree's in a pass under way.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from llm_service.counts import VerifierCounts
from llm_service.session import Session
from specgrove.runtime.prefix_cache import PrefixCache
from specgrove.runtime.shared_slots import SharedSlots

# So much may each session grow before somebody has to give way to another; less where that would be a good part of all slots.
_MAX_RESERVE_PER_SESSION = 32
_RESERVE_SHARE = 1 / 16


class Room:
    """All sessions of an engine, and all its KV slots. An admitted session's slots are in its ``slots``; a tree's are its pass's."""

    def __init__(self, num_slots: int, counts: VerifierCounts, prefixes: PrefixCache | None = None) -> None:
        """Without ``prefixes`` nothing is shared or kept."""
        self._counts = counts
        self._slots = SharedSlots(num_slots, counts, prefixes)
        self._sessions: dict[str, Session] = {}
        self._seniorities = itertools.count()
        self._reserve_per_session = min(_MAX_RESERVE_PER_SESSION, int(num_slots * _RESERVE_SHARE))

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def num_free(self) -> int:
        """Slots that no session holds: free, or to be had from the prefix cache."""
        return self._slots.num_free

    @property
    def num_cached(self) -> int:
        """Slots of the prefix cache, which sessions may hold, too."""
        return self._slots.num_cached

    def get(self, session_id: str) -> Session | None:
        """A session by its id."""
        return self._sessions.get(session_id)

    def open(self, session: Session, before: Session | None) -> None:
        """A new session, the youngest; or one opened anew, which has the place that it had ``before`` it was dropped."""
        session.seniority = next(self._seniorities) if before is None else before.seniority
        self._sessions[session.session_id] = session

    def drop(self, session: Session, *, is_sound: bool = True) -> None:
        """Forgets it. What it has computed is kept for others, where it ``is_sound``; else what nobody else has of it is gone, too."""
        del self._sessions[session.session_id]
        self._release(session, is_sound=is_sound)

    def reuse(self, session: Session) -> None:
        """Gives an admitted session what the prefix cache knows of its next tokens."""
        if not session.slots:
            self._slots.enter(session, session.cache_salt)
        start = session.shared_len
        if self._slots.reuse(session, session.max_shared_len):
            end = session.num_computed = session.shared_len
            session.hidden_start = max(session.hidden_start, min(end, session.hidden_end))
            num_reused = max(end - max(session.furthest, start), 0)
            session.num_reused += num_reused
            session.furthest = max(session.furthest, end)
            self._counts.num_reused_tokens += num_reused

    def share(self, session: Session, end: int) -> None:
        """Gives the prefix cache the first ``end`` tokens' slots, which are computed. Others' with the same bits may take their place."""
        session.num_computed = max(session.num_computed, end)
        session.furthest = max(session.furthest, end)
        self._slots.share(session, end)

    def admit(self, waiting: Iterable[Session], in_flight: Collection[str]) -> None:
        """Admits sessions that wait, the oldest first, while there is room. ``in_flight``: whom passes in flight compute, by id."""
        for session in sorted(waiting, key=lambda session: session.seniority):
            self.reuse(session)  # so that this is nobody else's
            victims = self._victims(session, in_flight)
            if not self._give_way(victims, functools.partial(self._fits, session), in_flight):
                self._release(session)
                return
            session.is_admitted = True

    def _fits(self, session: Session, leaving: Collection[Session]) -> bool:
        """Whether there is room for all its tokens, once those that are ``leaving`` have given their slots back."""
        left = {id(other) for other in leaving}
        staying = [other for other in self._sessions.values() if other.is_admitted and id(other) not in left]
        if not staying:
            return True  # whoever is alone has the whole pool
        promised = sum(other.num_uncached + 1 for other in (*staying, session))
        num_free = self.num_free + self._slots.num_held(leaving)
        return promised + self._reserve_per_session * (len(staying) + 1) <= num_free

    def _are_free(self, num_slots: int, leaving: Collection[Session]) -> bool:
        """The same of a number of slots."""
        return num_slots <= self.num_free + self._slots.num_held(leaving)

    def take(self, session: Session, num_slots: int, in_flight: Collection[str]) -> list[int] | None:
        """Slots, also of those younger than ``session``, the youngest first; ``None`` and nothing taken where those don't suffice.

        What passes in flight compute is not to be had yet.
        """
        victims = self._victims(session, in_flight)
        is_enough = self._give_way(victims, functools.partial(self._are_free, num_slots), in_flight)
        return self.take_for_now(num_slots) if is_enough else None

    def take_for_now(self, num_slots: int) -> list[int] | None:
        """Slots that no session holds, to be given back with ``free``."""
        if num_slots > self.num_free:
            return None
        return self._slots.allocate(num_slots)

    def free(self, slots: Iterable[int]) -> None:
        """Gives a tree's slots back."""
        self._slots.free(slots)

    def cut(self, session: Session, num_slots: int) -> None:
        """Gives back what the session has beyond so many slots, not those that it shares: nobody knows what is in them."""
        self._slots.cut(session, num_slots)
        session.num_computed = min(session.num_computed, num_slots)

    def _release(self, session: Session, *, is_sound: bool = True) -> None:
        """Takes its slots. The prefix cache keeps those that are computed, until somebody needs them."""
        self._slots.release(session, session.num_computed, is_sound=is_sound)
        session.furthest, session.num_computed = max(session.furthest, session.num_computed), 0
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

    def _victims(self, claimant: Session, in_flight: Collection[str]) -> list[Session]:
        """Who gives way to ``claimant``, in this order: those younger, the youngest first.

        Those whose pass is under way come last: the others need not be waited for.
        """
        younger = [
            session
            for session in self._sessions.values()
            if session.is_admitted and session.seniority > claimant.seniority
        ]
        return sorted(younger, key=lambda session: (session.session_id in in_flight, -session.seniority))

    def check(self, tree_slots: Iterable[int]) -> None:
        """Raises ``RuntimeError`` where a slot has no owner, or two. ``tree_slots`` are those of the trees in passes under way."""
        self._slots.check(self._sessions.values(), tree_slots)
