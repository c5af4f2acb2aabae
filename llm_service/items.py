"""Sessions, and the item under way of each. Owned by the engine, which computes the items.

Sessions are a cache of the router's committed tokens: they may be dropped at any time (idle for long, an item that failed), and the router
then sends the tokens again. Invariant: a session has one item under way at most, and an item that ends without its last verdict takes its
session with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from llm_service.acceptance import Acceptance
from llm_service.outbox import Outbox
from llm_service.room import Room
from llm_service.session import PendingWork, Session
from llm_service.structure import Structures
from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    SessionClosedError,
    SpecGroveError,
    StaleBaseError,
)
from specgrove.loop.works import VerifyWork

_MASKS_WAIT_S = 0.002


class Items:
    """All of an engine's. Sessions have their slots in ``room``; results go out by ``outbox``."""

    def __init__(self, room: Room, outbox: Outbox, structures: Structures, clock_s: Callable[[], float]) -> None:
        self._room = room
        self._outbox = outbox
        self._structures = structures
        self._clock_s = clock_s
        self._pending: dict[str, PendingWork] = {}

    @property
    def pending(self) -> Mapping[str, PendingWork]:
        """Those under way by session, in the order of their turns."""
        return self._pending

    def is_under_way(self, pending: PendingWork) -> bool:
        """Whether it has not ended, nor its session been opened anew."""
        return self._pending.get(pending.session.session_id) is pending

    def add(self, item_id: int, work: VerifyWork) -> None:
        """Work that was checked. Raises ``StaleBaseError`` where it doesn't go on from what is held, and ``InvalidRequestError``."""
        if work.base == 0:
            self._outbox.put_unsent(self._pending.values())  # the prompt's passes may take long
            before = self._room.get(work.session_id)
            assert work.session is not None
            opened = Session.of(work.session_id, work.session)
            opened.structure = self._structures.of(work.session.sampling)
            opened.hidden_end = len(work.new_token_ids) - 1
            window = work.session.hidden_window if work.tells_hidden_states else 0
            opened.hidden_start = max(opened.hidden_end - window, 0)
            self.close_session(work.session_id)
            self._room.open(opened, before)
        session = self._room.get(work.session_id)
        held_len = len(session.token_ids) if session else 0
        if session is None or work.base != held_len or work.session_id in self._pending:
            raise StaleBaseError(held_len if work.session_id not in self._pending else 0)
        session.extend(work.new_token_ids)
        session.last_used_s = self._clock_s()
        if work.tree.token_ids[0] != session.token_ids[-1]:
            self._room.drop(session)
            raise InvalidRequestError.of("tree.token_ids[0]", "the root must be the last committed token")
        self._pending[work.session_id] = PendingWork.of(item_id, session, work, session.last_used_s)

    def commit(self, pending: PendingWork, tree_slots: Sequence[int], acceptance: Acceptance) -> bool:
        """Takes the emitted tokens in; whether the item goes on."""
        session = pending.session
        del self._pending[session.session_id]
        kept_nodes = {0, *acceptance.accepted_nodes}
        session.slots.extend(slot for node, slot in enumerate(tree_slots) if node in kept_nodes)
        session.num_computed = len(session.slots)
        self._room.free(slot for node, slot in enumerate(tree_slots) if node not in kept_nodes)
        session.extend(acceptance.token_ids)
        session.last_used_s = self._clock_s()
        is_stopped = not set(acceptance.token_ids).isdisjoint(session.sampling.stop_token_ids)
        has_more = pending.num_steps_left > 1 and not is_stopped
        if has_more:
            pending.go_on()
            self._pending[session.session_id] = pending  # behind those that wait
        return has_more

    def take_masks(self) -> None:
        """Those that have come since: who waited for them goes on, without the nodes that can't be, or fails."""
        for pending in list(self._pending.values()):
            structure = pending.session.structure
            if pending.has_masks or structure is None or not structure.is_ready:
                continue
            pending.has_masks = True
            if pending.is_in_flight:
                continue
            if (error := structure.problem) is not None:
                self.fail(pending, error)
            elif pending.tree.num_nodes > 1:
                pending.keep(structure.possible_nodes)

    def wait_for_masks(self, works: Iterable[PendingWork]) -> None:
        """At the end of a pass, for those that are due; not for long, since all sessions wait."""
        due = [
            structure
            for pending in works
            if not pending.has_masks and (structure := pending.session.structure) is not None and structure.is_quick
        ]
        if due:
            self._structures.wait(due, _MASKS_WAIT_S)
        if due or self._structures.has_news:  # who is told of an answer may see it before its news
            self.take_masks()

    def put_back(self, pending: PendingWork) -> bool:
        """After a pass at whose end it had no masks; whether they were due. Its tree is verified in another pass, once they are there."""
        pending.is_in_flight = False
        structure = pending.session.structure
        assert structure is not None
        was_due = structure.is_quick
        structure.was_late()
        return was_due

    def finish_early(self, item_ids: Collection[int]) -> None:
        """Makes the next verdict of these the last one."""
        for pending in self._pending.values():
            if pending.item_id in item_ids:
                pending.num_steps_left = 1

    def fail(self, pending: PendingWork, error: SpecGroveError) -> None:
        """The session goes with the item: a router that still wants it replays."""
        del self._pending[pending.session.session_id]
        self._outbox.put_error(pending, error)
        self._room.drop(pending.session, is_sound=not isinstance(error, InternalError))

    def fail_expired(self) -> None:
        """Those whose time has run out."""
        now_s = self._clock_s()
        for pending in list(self._pending.values()):
            if pending.deadline_s is not None and now_s > pending.deadline_s:
                self.fail(pending, DeadlineExceededError("the item's time ran out before its tree was verified"))

    def close_session(self, session_id: str) -> None:
        """With its item; an unknown one is none."""
        pending, session = self._pending.get(session_id), self._room.get(session_id)
        if pending is not None:
            self.fail(pending, SessionClosedError("the session was closed or opened anew"))
        elif session is not None:
            self._room.drop(session)

    def expire_sessions(self, ttl_s: float) -> None:
        """Drops those without an item that were not used for so long."""
        oldest_s = self._clock_s() - ttl_s
        for session in self._room:
            if session.last_used_s < oldest_s and session.session_id not in self._pending:
                self._room.drop(session)
