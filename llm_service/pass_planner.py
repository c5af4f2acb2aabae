"""What the next pass computes: who is admitted, whose turn it is, and a KV slot for every row. Asked by the engine; pure Python.

Invariant: what it returns has its slots. Who finds none waits; where nobody does, somebody older or a pass in flight holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_service.config import VerifierConfig
from llm_service.passes import PassPart
from llm_service.paying_rows import PayingRows
from llm_service.room import Room
from llm_service.scheduler import PlannedPart, plan_pass
from llm_service.session import PendingWork
from specgrove.runtime.shared_slots import MIN_REPEATED_LEN, next_tokens


class PassPlanner:
    """Plans over an engine's pending items and its ``Room``."""

    def __init__(self, room: Room, config: VerifierConfig, max_num_in_flight: int, paying_rows: PayingRows) -> None:
        self._room = room
        self._paying_rows = paying_rows
        self._config = config
        self._max_num_in_flight = max_num_in_flight

    def next_parts(self, pending: Mapping[str, PendingWork], in_flight: set[str], now_s: float) -> tuple[PassPart, ...]:
        """``pending`` are all items under way by session, in order of arrival; ``in_flight`` the sessions of the passes in flight.

        An item that a pass has failed with gets one of its own, with nothing beside it and nothing else under way; what fails again
        is then its doing.
        """
        waiting = [work.session for work in pending.values() if not work.session.is_admitted]
        if waiting:
            self._room.admit(waiting, in_flight)
        for work in pending.values():
            if work.session.is_admitted and work.session.num_uncached > 0:
                self._room.reuse(work.session)
        turn = _Turn(self._room, in_flight)
        suspects = [work for work in pending.values() if work.num_failures > 0]
        if in_flight and any(suspect.session.is_admitted for suspect in suspects):
            return ()  # where passes overlap, others would else follow one another for ever, and its turn never come
        for suspect in suspects:
            if parts := turn.with_slots(self._plan([suspect])):
                return parts
        works = [work for work in pending.values() if work.num_failures == 0]
        parts = self._first_with_slots(self._without_repeats(works), turn, now_s, is_busy=bool(in_flight))
        if not parts and not in_flight:  # whom others would wait for finds no slots
            parts = self._first_with_slots(works, turn, now_s, is_busy=False)
        return parts

    def _first_with_slots(
        self, works: Sequence[PendingWork], turn: _Turn, now_s: float, *, is_busy: bool
    ) -> tuple[PassPart, ...]:
        # Those planned first may all have to wait for slots that older ones, which were not planned, can take from them.
        while planned := self._plan(works):
            trees = [(part.pending, part.pending.kept) for part in planned]
            self._leave_out_nodes(planned, now_s, is_busy=is_busy)
            parts = turn.with_slots(planned)
            begun = {part.pending.item_id for part in parts}
            for work, kept in trees:
                if work.item_id not in begun:
                    work.kept = kept  # the pass that it comes into has other rows
            if parts:
                return parts
            item_ids = {part.pending.item_id for part in planned}
            works = [work for work in works if work.item_id not in item_ids]
        return ()

    def _plan(self, works: Sequence[PendingWork]) -> tuple[PlannedPart, ...]:
        config = self._config
        admitted = [work for work in works if work.session.is_admitted]
        return plan_pass(admitted, config.max_num_chunk_tokens, config.max_num_tree_rows, self._max_num_in_flight)

    def _without_repeats(self, works: Sequence[PendingWork]) -> Sequence[PendingWork]:
        """Without those whose next tokens another session computes in this pass, or in one in flight: they will have them from it."""
        computing = [work.session for work in works if work.session.num_in_flight > 0]
        if sum(work.session.num_uncached >= MIN_REPEATED_LEN for work in works) + len(computing) < 2:
            return works
        while True:
            first = {next_tokens(session, session.max_shared_len): session for session in computing}
            repeats = set()
            for part in self._plan(works):
                session = part.pending.session
                coming = next_tokens(session, session.max_shared_len)
                if part.chunk_len > 0 and coming and first.setdefault(coming, session) is not session:
                    repeats.add(part.pending.item_id)
            if not repeats:
                return works
            works = [work for work in works if work.item_id not in repeats]

    def _leave_out_nodes(self, planned: Sequence[PlannedPart], now_s: float, *, is_busy: bool) -> None:
        """Those of trees in the pass that are not worth their rows, where the router leaves it to us."""
        trees = [part.pending for part in planned if part.has_tree]
        if not any(work.may_leave_out and work.tree.num_nodes > 1 for work in trees):
            return
        free = [work for work in trees if work.may_leave_out]
        num_other_rows = sum(part.num_rows for part in planned) - sum(work.tree.num_nodes for work in free)
        kept = self._paying_rows.select([work.tree for work in free], num_other_rows, now_s, is_busy=is_busy)
        for work, nodes in zip(free, kept, strict=True):
            work.keep(nodes)


class _Turn:
    """The state in which one pass is planned."""

    def __init__(self, room: Room, in_flight: set[str]) -> None:
        self._room = room
        self._in_flight = in_flight

    def with_slots(self, planned: tuple[PlannedPart, ...]) -> tuple[PassPart, ...]:
        """The parts that find a KV slot for every row, those of the oldest sessions first. The others wait.

        Where slots are short a tree is given up before anybody has to give way: that costs speed only.
        """
        parts = []
        for part in sorted(planned, key=lambda part: part.pending.session.seniority):
            pending, session = part.pending, part.pending.session
            if not session.is_admitted:  # it had to give way to a part before
                continue
            slots = self._room.take_for_now(part.num_rows)
            if slots is None:
                if part.has_tree:
                    pending.keep([0])
                slots = self._room.take(session, part.num_rows, self._in_flight)
            if slots is not None:
                parts.append(PassPart.of(part, slots))
        return tuple(parts)
