"""How much of clients' work an event loop takes on in one of its turns: streams go on between. One object per server or kind of work.

What many requests ask for at the same moment would otherwise be done in the same turn of the loop, one after another, and every
stream would wait for all of it. Invariant: work begins in the order in which it was asked for; a turn has as much as its share holds,
or one piece that is larger. Owned by one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque


class LoopTurns:
    """Costs and the share of a turn are in whatever measures the work, such as bytes."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._left = share
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_next_turn_planned = False

    async def take(self, cost: int) -> None:
        """Returns when work of this cost may be done at once, without another wait in between."""
        if self._waiting or not self._fits(cost):
            coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((cost, coming))
            await coming
        else:
            self._spend(cost)

    def _fits(self, cost: int) -> bool:
        """What is more than a whole share has a turn to itself."""
        return cost <= self._left or self._left == self._share

    def _spend(self, cost: int) -> None:
        self._left -= cost
        if not self._is_next_turn_planned:
            self._is_next_turn_planned = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_next_turn_planned = False
        self._left = self._share
        while self._waiting:
            cost, coming = self._waiting[0]
            if coming.done():  # who waited has gone
                self._waiting.popleft()
            elif self._fits(cost):
                self._waiting.popleft()
                self._spend(cost)
                coming.set_result(None)
            else:
                return
