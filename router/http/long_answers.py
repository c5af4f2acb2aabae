"""Long whole answers are put together one at a time, on a thread of their own; clients have it in turn. Used by ``answers``.

Several at once would only hold one another up. Invariant: who has ten of them delays another's by one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class LongAnswers:
    """Used on the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_taken = False

    async def made(self, client: str, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gives, when it is the client's turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        if not self._is_taken:
            self._give()
        try:
            await turn
            return await loop.run_in_executor(self._thread, make)
        finally:
            if turn.done() and not turn.cancelled():
                self._give()

    def _give(self) -> None:
        """The next turn, if somebody waits."""
        self._is_taken = False
        while self._waiting and not self._is_taken:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # behind the others
            if not turn.done():  # or nobody waits for the answer any more
                turn.set_result(None)
                self._is_taken = True
