"""Passes that failed: they cost no one but the item that they fail with. Used by the engine.

All items of such a pass are computed again, each in passes of its own; the one that fails there too is given up. Invariant: after a failure
no pass is in flight, and each session has the slots alone that it had before the passes that were.
"""

from __future__ import annotations

import logging

from llm_service.counts import VerifierCounts
from llm_service.items import Items
from llm_service.passes import PassPart
from llm_service.passes_in_flight import PassesInFlight
from llm_service.room import Room
from llm_service.session import PendingWork
from specgrove.errors import InternalError
from specgrove.telemetry.logs import of_requests

logger = logging.getLogger(__name__)

_MAX_NUM_FAILURES = 2


class FailedPasses:
    """Takes them back, with those that are in flight."""

    def __init__(self, items: Items, room: Room, passes: PassesInFlight, counts: VerifierCounts) -> None:
        self._items = items
        self._room = room
        self._passes = passes
        self._counts = counts

    def undo(self, failed: tuple[PassPart, ...], error: Exception) -> None:
        """A pass that failed: its items have failed once more."""
        self._counts.num_failed_passes += 1
        logger.exception(
            "a forward pass failed; its %d items are computed again, apart from each other",
            len(failed),
            extra=of_requests(part.pending.session.session_id for part in failed),
        )
        self._discard(failed)
        for part in failed:
            if self._items.is_under_way(part.pending):
                self._count(part.pending, error)

    def undo_walk(self, pending: PendingWork, error: Exception) -> None:
        """A tree that could not be walked, of a pass that did not fail."""
        request = of_requests([pending.session.session_id])
        logger.error("its tree could not be walked", exc_info=error, extra=request)
        self._discard(())  # a pass ahead took tokens over that are chosen again
        self._count(pending, error)

    def _discard(self, failed: tuple[PassPart, ...]) -> None:
        """As if neither those in flight nor the one that failed had been: nobody knows what is in their slots."""
        for part in [*failed, *self._passes.discard()]:
            self._room.free(part.tree_slots)
            if self._items.is_under_way(part.pending):
                part.pending.is_in_flight = False
                self._room.cut(part.pending.session, part.start)

    def _count(self, pending: PendingWork, error: Exception) -> None:
        pending.num_failures += 1
        if pending.num_failures >= _MAX_NUM_FAILURES:
            cause = f"{type(error).__name__}: {error}"
            self._items.fail(pending, InternalError(f"this request made the service fail twice ({cause})"))
