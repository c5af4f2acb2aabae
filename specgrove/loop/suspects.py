"""Works that were lost with what computed them are made one at a time, so that one that is to blame is found: see ``Verifying``."""

from __future__ import annotations

import asyncio


class SuspectTurn:
    """One session's. It has the turn from before its work is sent until the next verdict, which clears it."""

    def __init__(self) -> None:
        self._place: asyncio.Lock | None = None

    async def take(self, place: asyncio.Lock) -> None:
        """Waits for the others that are to be apart at this place, which is held by one at a time."""
        await place.acquire()
        self._place = place

    def end(self) -> None:
        """Nothing happens where it has none."""
        place, self._place = self._place, None
        if place is not None:
            place.release()
