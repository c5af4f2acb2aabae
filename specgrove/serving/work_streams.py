"""The server's half of the multiplexed streams (Verify, Draft). One object per service, used by its servicer.

A message's items go to the engine at once. What the engine's turn gives a stream comes back together, and goes out in one message.
Invariant: each item gets its results or a failure as the last of them, unless its stream ends first: then it is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import grpc

from specgrove.config import MAX_SESSION_ID_LEN
from specgrove.errors import InvalidRequestError, SessionClosedError, SpecGroveError, UnavailableError
from specgrove.serving.batches import MAX_LIST_LEN, batches
from specgrove.serving.served_stream import FoundT, MessageT, ResultT, ServedStream, StreamItem
from specgrove.telemetry.logs import of_requests
from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import token_tree_pb2
from specgrove.wire.errors import error_to_proto

logger = logging.getLogger(__name__)

ITEM_ERRORS = Metric(
    "specgrove_work_item_errors_total",
    Kind.COUNTER,
    "Work items of routers that ended with an error, by its code. After STALE_BASE the router sends what is lacking: nobody is at fault.",
    labels=("code",),
)

_MAX_NUM_CLOSED = 4096

ResponseT = TypeVar("ResponseT")


class WorkStreams(Generic[MessageT, FoundT, ResultT, ResponseT]):
    """All streams of one method."""

    def __init__(
        self,
        begin: Callable[[StreamItem[MessageT, FoundT, ResultT]], object],
        result_of: Callable[[MessageT, FoundT], ResultT],
        result_type: Callable[..., ResultT],
        response_type: Callable[..., ResponseT],
        *,
        forget: Callable[[str], object],
        finish_early: Callable[[Sequence[MessageT]], object] | None = None,
        give_up: Callable[[Sequence[MessageT]], object] | None = None,
    ) -> None:
        """E.g. ``WorkStreams(self._begin, self._result_of, llm_pb2.VerifyResult, llm_pb2.VerifyResponse, forget=...)``.

        ``begin`` submits an item, with its stream as the mailbox and itself as the key; what it raises is the item's failure.
        ``result_of`` makes a result's message, its ids included. ``forget`` is told the sessions of a stream that has ended: whoever
        opened them can't close them any more. ``finish_early`` is told the items under way that a request's ``finish_early_item_ids``
        name, where it has such a field; ``give_up`` those whose results nobody waits for any more.
        """
        self._begin = begin
        self._result_of = result_of
        self._result_type = result_type
        self._response_type = response_type
        self._forget = forget
        self._finish_early = finish_early
        self._give_up = give_up or (lambda messages: None)
        # Where each session's latest item came from: a client that was cut off goes on with its sessions on another stream.
        self._owners: dict[str, ServedStream[MessageT, FoundT, ResultT]] = {}
        self._streams: set[ServedStream[MessageT, FoundT, ResultT]] = set()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._num_errors: Counter[tuple[str, ...]] = Counter()
        self._is_draining = False
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
        """The body of the servicer's method: yields responses until the client ends the stream or ``drain`` does.

        Raises ``InvalidRequestError`` at a request with too long a list.
        """
        # Tells the client that the stream is open, before there is any result.
        await context.send_initial_metadata(())
        stream = ServedStream(self._result_of, self._failure_of)
        reader = asyncio.create_task(self._read(requests, stream))
        self._streams.add(stream)
        try:
            while not stream.is_done():
                await stream.has_changed.wait()
                stream.has_changed.clear()
                for batch in batches(stream.take_outgoing()):
                    yield self._response_type(results=batch)
                    stream.mark_sent(len(batch))
                self._check_idle()
        finally:
            self._streams.discard(stream)
            reader.cancel()
            self._give_up(stream.give_up())
            self._forget_sessions_of(stream)
            self._check_idle()

    async def _read(self, requests: AsyncIterable[Any], stream: ServedStream[MessageT, FoundT, ResultT]) -> None:
        """Until the client ends the stream, or something else does."""
        failure: Exception | None = None
        try:
            async for request in requests:
                _check_lists(request)
                for message in request.items:
                    self._take(message, stream)
                if self._finish_early is not None and request.finish_early_item_ids:
                    self._finish_early(stream.under_way(frozenset(request.finish_early_item_ids)))
        except grpc.aio.BaseError as error:
            logger.info("a work stream broke: %s", error)
        except Exception as error:
            failure = error
        finally:
            stream.end(failure)

    def _take(self, message: MessageT, stream: ServedStream[MessageT, FoundT, ResultT]) -> None:
        item = stream.add(message)
        try:
            self.check_open(message.session_id)
            self._owners[message.session_id] = stream
            self._begin(item)
        except Exception as error:
            stream.fail(item, error)

    def check_open(self, session_id: str) -> None:
        """Raises ``SessionClosedError`` for a session that was closed, ``UnavailableError`` when draining."""
        if self._is_draining:
            raise UnavailableError("the service is shutting down")
        if session_id in self._closed:
            raise SessionClosedError("the session was closed")

    def _failure_of(self, message: MessageT, error: Exception) -> ResultT:
        if not isinstance(error, SpecGroveError):
            logger.error("an item failed", exc_info=error, extra=of_requests([message.session_id]))
        failure = error_to_proto(error)
        code = token_tree_pb2.WorkErrorCode.Name(failure.code).removeprefix("WORK_ERROR_CODE_")
        self._num_errors[(code,)] += 1
        return self._result_type(session_id=message.session_id, item_id=message.item_id, error=failure)

    def _forget_sessions_of(self, stream: ServedStream[MessageT, FoundT, ResultT]) -> None:
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
        for stream in self._streams:
            self._give_up(stream.fail_all(UnavailableError("the service shut down before it was done")))

    def _check_idle(self) -> None:
        if self._is_draining and self.num_pending_items == 0:
            self._idle.set()


def _check_lists(request: Any) -> None:
    """Requests have nothing but lists."""
    for field, values in request.ListFields():
        if len(values) > MAX_LIST_LEN:
            raise InvalidRequestError.of(field.name, f"at most {MAX_LIST_LEN}, got {len(values)}")
