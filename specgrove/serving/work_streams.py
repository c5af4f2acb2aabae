"""The server's half of the multiplexed streams (Verify, Draft). One object per service, used by its servicer.

Every item of a message is its own task; results that are ready go out together in one message, in the order they got ready.
Invariant: each item gets its results or a failure as the last of them, unless its stream ends first, which cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import grpc

from specgrove.config import MAX_SESSION_ID_LEN
from specgrove.errors import InvalidRequestError, SessionClosedError, SpecGroveError, UnavailableError
from specgrove.serving.batches import MAX_LIST_LEN, batches
from specgrove.serving.status import abort
from specgrove.telemetry.logs import mark_lines
from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import token_tree_pb2
from specgrove.wire import works

logger = logging.getLogger(__name__)

ITEM_ERRORS = Metric(
    "specgrove_work_item_errors_total",
    Kind.COUNTER,
    "Work items of routers that ended with an error, by its code. After STALE_BASE the router sends what is lacking: nobody is at fault.",
    labels=("code",),
)

_MAX_NUM_CLOSED = 4096


class WorkItem(Protocol):
    """``VerifyItem`` or ``DraftItem``."""

    session_id: str
    item_id: int


ItemT = TypeVar("ItemT", bound=WorkItem)
ResultT = TypeVar("ResultT")
ResponseT = TypeVar("ResponseT")


class WorkStreams(Generic[ItemT, ResultT, ResponseT]):
    """All streams of one method."""

    def __init__(
        self,
        submit: Callable[[ItemT], AsyncGenerator[ResultT, None]],
        result_type: Callable[..., ResultT],
        response_type: Callable[..., ResponseT],
        *,
        forget: Callable[[str], object],
        finish_early: Callable[[ItemT], object] | None = None,
    ) -> None:
        """E.g. ``WorkStreams(self._verify, llm_pb2.VerifyResult, llm_pb2.VerifyResponse, forget=loop.close_session)``.

        ``submit`` makes the whole results of one item, their ids included; what it raises becomes the last one's error.
        ``forget`` is told the sessions of a stream that has ended: whoever opened them can't close them any more. ``finish_early``
        is told the items under way that a request's ``finish_early_item_ids`` name, where it has such a field.
        """
        self._submit = submit
        self._result_type = result_type
        self._response_type = response_type
        self._forget = forget
        self._finish_early = finish_early
        # Where each session's latest item came from: a client that was cut off goes on with its sessions on another stream.
        self._owners: dict[str, _Stream[ItemT, ResultT]] = {}
        self._streams: set[_Stream[ItemT, ResultT]] = set()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._num_errors: Counter[tuple[str, ...]] = Counter()
        self._is_draining = False
        self._is_cut_off = False
        self._idle = asyncio.Event()
        self._idle.set()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(ITEM_ERRORS, self._num_errors)

    @property
    def num_pending_items(self) -> int:
        """Items that are not finished and results that are not sent yet, over all streams."""
        return sum(stream.num_pending for stream in self._streams)

    async def serve(self, requests: AsyncIterable[Any], context: Any) -> AsyncGenerator[ResponseT, None]:
        """The body of the servicer's method: yields responses until the client ends the stream or ``drain`` does."""
        # Tells the client that the stream is open, before there is any result.
        await context.send_initial_metadata(())
        stream = _Stream[ItemT, ResultT](self._make_results)
        reader = asyncio.create_task(self._read(_checked(requests, context), stream))
        self._streams.add(stream)
        try:
            while True:
                await stream.changed.wait()
                stream.changed.clear()
                results = stream.take_results()
                for batch in batches(results):
                    yield self._response_type(results=batch)
                    stream.mark_sent(len(batch))
                self._check_idle()
                if stream.is_ended and not stream.has_results:
                    return
        finally:
            self._streams.discard(stream)
            reader.cancel()
            stream.cancel_all()
            self._forget_sessions_of(stream)
            self._check_idle()

    def _forget_sessions_of(self, stream: _Stream[ItemT, ResultT]) -> None:
        for session_id in [session_id for session_id, owner in self._owners.items() if owner is stream]:
            del self._owners[session_id]
            self._forget(session_id)

    def close_session(self, session_id: str) -> None:
        """From now on the session's items are refused: one that its closing overtook must not bring it back to life.

        Session ids are never used again, so that remembering the latest is enough. Raises ``InvalidRequestError`` for an id
        that no session can have.
        """
        if not 1 <= len(session_id) <= MAX_SESSION_ID_LEN:
            raise InvalidRequestError.of("session_id", f"must have 1 to {MAX_SESSION_ID_LEN} characters")
        self._owners.pop(session_id, None)
        self._closed[session_id] = None
        if len(self._closed) > _MAX_NUM_CLOSED:
            self._closed.popitem(last=False)

    async def drain(self) -> None:
        """Answers new items with UNAVAILABLE, waits until the others are answered, and ends the streams."""
        self._is_draining = True
        self._idle.clear()
        self._check_idle()
        await self._idle.wait()
        for stream in self._streams:
            stream.end()

    def cut_off(self) -> None:
        """Fails what is under way still, for whom the time to drain was too short: so that routers ask others, and blame no item."""
        self._is_cut_off = True
        for stream in self._streams:
            stream.cancel_all()

    async def _read(self, requests: AsyncIterable[Any], stream: _Stream[ItemT, ResultT]) -> None:
        try:
            async for request in requests:
                for item in request.items:
                    if item.session_id not in self._closed:
                        self._owners[item.session_id] = stream
                    stream.start(item)
                if self._finish_early is not None:
                    for item in stream.items_under_way(request.finish_early_item_ids):
                        self._finish_early(item)
        except grpc.aio.BaseError as error:
            logger.info("a work stream broke: %s", error)
        finally:
            stream.end()

    async def _make_results(self, item: ItemT) -> AsyncGenerator[ResultT, None]:
        mark_lines(item.session_id)
        try:
            if self._is_draining:
                raise UnavailableError("the service is shutting down")
            if item.session_id in self._closed:
                raise SessionClosedError("the session was closed")
            async with contextlib.aclosing(self._submit(item)) as results:
                async for result in results:
                    yield result
            return
        except asyncio.CancelledError:
            if not self._is_cut_off:
                raise
            failure = works.error_to_proto(UnavailableError("the service shut down before it was done"))
        except SpecGroveError as error:
            failure = works.error_to_proto(error)
        except Exception as error:
            logger.exception("an item failed")
            failure = works.error_to_proto(error)
        code = token_tree_pb2.WorkErrorCode.Name(failure.code).removeprefix("WORK_ERROR_CODE_")
        self._num_errors[(code,)] += 1
        yield self._result_type(session_id=item.session_id, item_id=item.item_id, error=failure)

    def _check_idle(self) -> None:
        if self._is_draining and self.num_pending_items == 0:
            self._idle.set()


async def _checked(requests: AsyncIterable[Any], context: Any) -> AsyncIterator[Any]:
    """The requests, or the end of the stream with INVALID_ARGUMENT at one with too long a list. Requests have nothing but lists."""
    async for request in requests:
        for field, values in request.ListFields():
            if len(values) > MAX_LIST_LEN:
                problem = f"at most {MAX_LIST_LEN}, got {len(values)}"
                await abort(context, InvalidRequestError.of(field.name, problem))
        yield request


class _Stream(Generic[ItemT, ResultT]):
    """The items of one stream."""

    def __init__(self, make_results: Callable[[ItemT], AsyncGenerator[ResultT, None]]) -> None:
        self._make_results = make_results
        self._tasks: set[asyncio.Task[None]] = set()
        self._items: dict[int, ItemT] = {}  # under way, by their ids
        self._results: list[ResultT] = []
        self._num_unsent = 0
        self.changed = asyncio.Event()
        self.is_ended = False

    @property
    def num_pending(self) -> int:
        return len(self._tasks) + self._num_unsent

    def start(self, item: ItemT) -> None:
        task = asyncio.create_task(self._run(item))
        self._tasks.add(task)
        self._items[item.item_id] = item
        task.add_done_callback(partial(self._forget, item))

    def _forget(self, item: ItemT, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._items.pop(item.item_id, None)
        self.changed.set()

    def items_under_way(self, item_ids: Iterable[int]) -> list[ItemT]:
        """Those of the ids that are; others have ended meanwhile."""
        return [self._items[item_id] for item_id in item_ids if item_id in self._items]

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def take_results(self) -> list[ResultT]:
        results, self._results = self._results, []
        return results

    def mark_sent(self, num_results: int) -> None:
        self._num_unsent -= num_results

    def end(self) -> None:
        self.is_ended = True
        self.changed.set()

    def cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run(self, item: ItemT) -> None:
        async for result in self._make_results(item):
            self._num_unsent += 1
            self._results.append(result)
            self.changed.set()
