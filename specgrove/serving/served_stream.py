"""One work stream as its server sees it: the items under way on it, and the results that wait to be sent.

Owned by ``WorkStreams``. It is the mailbox of its items: an engine's thread posts all results of a turn in one call, and they become
messages on the event loop. Invariant: an item is under way from its message to its last result, its failure, or its stream's end,
whichever is first. What comes for it later is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from specgrove.errors import SpecGroveError
from specgrove.serving.mailbox import Answer


class WorkMessage(Protocol):
    """``VerifyItem`` or ``DraftItem``."""

    session_id: str
    item_id: int


MessageT = TypeVar("MessageT", bound=WorkMessage)
FoundT = TypeVar("FoundT")
ResultT = TypeVar("ResultT")


class StreamItem(Generic[MessageT, FoundT, ResultT]):
    """An item of a stream: what its answers are posted under."""

    __slots__ = ("message", "stream")

    def __init__(self, message: MessageT, stream: ServedStream[MessageT, FoundT, ResultT]) -> None:
        self.message = message
        self.stream = stream

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for its results any more."""
        return not self.stream.has(self)


class ServedStream(Generic[MessageT, FoundT, ResultT]):
    """All but ``post`` is for the event loop's thread alone."""

    def __init__(
        self,
        result_of: Callable[[MessageT, FoundT], ResultT],
        failure_of: Callable[[MessageT, Exception], ResultT],
    ) -> None:
        """Both make the message that is sent; ``failure_of`` an item's last one."""
        self._result_of = result_of
        self._failure_of = failure_of
        self._event_loop = asyncio.get_running_loop()
        self._items: dict[StreamItem[MessageT, FoundT, ResultT], None] = {}  # under way, in the order of their arrival
        self._outgoing: list[ResultT] = []
        self._num_unsent = 0
        self._failure: Exception | None = None
        self._is_ended = False
        self.has_changed = asyncio.Event()
        """Set where there is something to send, or nothing more will come."""

    @property
    def num_pending(self) -> int:
        """Items under way, and results that are not sent yet."""
        return len(self._items) + self._num_unsent

    def add(self, message: MessageT) -> StreamItem[MessageT, FoundT, ResultT]:
        """An item is under way from now on."""
        item = StreamItem(message, self)
        self._items[item] = None
        return item

    def has(self, item: StreamItem[MessageT, FoundT, ResultT]) -> bool:
        """Whether it is under way still."""
        return item in self._items

    def under_way(self, item_ids: Collection[int]) -> list[MessageT]:
        """Those of the ids that are; others have ended meanwhile."""
        return [item.message for item in self._items if item.message.item_id in item_ids]

    def post(self, answers: Sequence[Answer[StreamItem[MessageT, FoundT, ResultT], FoundT]]) -> None:
        """See ``Mailbox``."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._event_loop.call_soon_threadsafe(self.take, answers)

    def take(self, answers: Sequence[Answer[StreamItem[MessageT, FoundT, ResultT], FoundT]]) -> None:
        """Puts them where they wait to be sent."""
        for answer in answers:
            if answer.key in self._items:
                self._answer(answer.key, answer.result, is_last=answer.is_last)

    def _answer(
        self, item: StreamItem[MessageT, FoundT, ResultT], found: FoundT | SpecGroveError, *, is_last: bool
    ) -> None:
        if isinstance(found, SpecGroveError):
            self.fail(item, found)
            return
        try:
            result = self._result_of(item.message, found)
        except Exception as error:
            self.fail(item, error)
            return
        self._send(result)
        if is_last:
            del self._items[item]

    def fail(self, item: StreamItem[MessageT, FoundT, ResultT], error: Exception) -> None:
        """Ends the item, where it is under way still."""
        if item in self._items:
            del self._items[item]
            self._send(self._failure_of(item.message, error))

    def fail_all(self, error: Exception) -> list[MessageT]:
        """Ends all of them: what they were."""
        items = list(self._items)
        for item in items:
            self.fail(item, error)
        return [item.message for item in items]

    def give_up(self) -> list[MessageT]:
        """Ends all of them, and nothing is sent any more: what they were."""
        messages = [item.message for item in self._items]
        self._items.clear()
        return messages

    def _send(self, result: ResultT) -> None:
        self._outgoing.append(result)
        self._num_unsent += 1
        self.has_changed.set()

    def take_outgoing(self) -> list[ResultT]:
        """What waits to be sent. It is unsent until ``mark_sent`` says how much of it was sent."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def mark_sent(self, num_results: int) -> None:
        """So many have gone."""
        self._num_unsent -= num_results

    def end(self, failure: Exception | None = None) -> None:
        """No message comes any more, because of ``failure`` where there is one."""
        self._is_ended, self._failure = True, failure
        self.has_changed.set()

    def is_done(self) -> bool:
        """Whether it has ended, and all that was ready is sent. Raises what it ended with."""
        if self._failure is not None:
            raise self._failure
        return self._is_ended and not self._outgoing
