"""Sends an answer, whole or as server-sent events, and ends its requests when the client hangs up. Used by ``app``.

Invariant: what goes wrong before the first piece has a status of its own; later it is an event that says so, and the stream has no
``[DONE]``. However an answer ends, its outputs have ended then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from router.http.errors import INTERNAL_FAILURE, Failure, failure_of
from router.http.outputs import Piece
from specgrove.errors import SpecGroveError, UnavailableError

logger = logging.getLogger(__name__)

Json = dict[str, object]

_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold events back.
    (b"x-accel-buffering", b"no"),
)
_STOPPED = UnavailableError("this router has been stopped")
# Answers of more tokens are put together beside the event loop.
_LONG_NUM_TOKENS = 4096


class _UnreadError(Exception):
    """The client reads nothing."""


class AnswerFormat(Protocol):
    """How one endpoint writes an answer. One object per request."""

    def opening(self) -> Iterable[Json]:
        """Chunks before the first piece."""
        ...

    def chunk(self, piece: Piece) -> Json | None:
        """A piece's; None where there is nothing to say yet."""
        ...

    def closing(self) -> Iterable[Json]:
        """Chunks after the last piece."""
        ...

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """All pieces as one answer."""
        ...


class Answer(Response):
    """A response that is made while it is sent."""

    def __init__(
        self, pieces: AsyncGenerator[Piece, None], form: AnswerFormat, *, is_stream: bool, write_timeout_s: float | None
    ) -> None:
        """``write_timeout_s`` is how long a chunk may wait for its client to read."""
        self._pieces = pieces
        self._form = form
        self._is_stream = is_stream
        self._write_timeout_s = write_timeout_s
        self._has_started = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until it is sent, or nobody is there to read it."""
        sending = asyncio.create_task(self._stream(send) if self._is_stream else self._whole(send, scope, receive))
        hanging_up = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            is_stopped = False
        except asyncio.CancelledError:  # the server has waited long enough
            is_stopped = True
        finally:
            is_sent = sending.done()
            for task in (sending, hanging_up):
                task.cancel()
            await asyncio.gather(sending, hanging_up, return_exceptions=True)
        if is_sent:
            sending.result()
        elif is_stopped and self._has_started:
            with contextlib.suppress(_UnreadError):
                await self._end(send, failure_of(_STOPPED))
        elif is_stopped:
            await failure_of(_STOPPED).response()(scope, receive, send)

    async def _whole(self, send: Send, scope: Scope, receive: Receive) -> None:
        async with contextlib.aclosing(self._pieces):
            pieces = [piece async for piece in self._pieces]
        if sum(len(piece.tokens) for piece in pieces) < _LONG_NUM_TOKENS:
            content = self._content_of(pieces)
        else:
            content = await asyncio.to_thread(self._content_of, pieces)
        response = Response(content, media_type="application/json")
        self._has_started = True
        await response(scope, receive, send)

    def _content_of(self, pieces: Sequence[Piece]) -> bytes:
        return _json(self._form.whole(pieces))

    async def _stream(self, send: Send) -> None:
        async with contextlib.aclosing(self._pieces):
            first = await anext(self._pieces)
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
            self._has_started = True
            try:
                await self._send_events_or_failure(send, first)
            except _UnreadError:
                # The server closes the connection, as the answer is not complete.
                logger.info("a client has read nothing for %s s; its request was ended", self._write_timeout_s)

    async def _send_events_or_failure(self, send: Send, first: Piece) -> None:
        try:
            await self._send_events(send, first)
        except _UnreadError:
            raise
        except SpecGroveError as error:
            await self._end(send, failure_of(error))
        except Exception:
            logger.exception("a stream failed")
            await self._end(send, INTERNAL_FAILURE)

    async def _send_events(self, send: Send, first: Piece) -> None:
        # What opens the stream goes with the first piece.
        await self._write(send, b"".join(map(_event, (*self._form.opening(), *self._chunks(first)))))
        async for piece in self._pieces:
            for chunk in self._chunks(piece):
                await self._write(send, _event(chunk))
        last = b"".join(map(_event, self._form.closing())) + b"data: [DONE]\n\n"
        await self._write(send, last, has_more=False)

    def _chunks(self, piece: Piece) -> list[Json]:
        chunk = self._form.chunk(piece)
        return [] if chunk is None else [chunk]

    async def _write(self, send: Send, content: bytes, *, has_more: bool = True) -> None:
        # Waits when the client's side of the connection has no room.
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await send({"type": "http.response.body", "body": content, "more_body": has_more})
        except TimeoutError as error:
            raise _UnreadError from error

    async def _end(self, send: Send, failure: Failure) -> None:
        await self._write(send, _event(failure.body()), has_more=False)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(chunk: Json) -> bytes:
    return b"data: " + _json(chunk) + b"\n\n"


def _json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
