"""Sends an answer, whole or as server-sent events, and ends its requests when the client hangs up. Used by ``app``.

Invariant: what goes wrong before the first piece has a status of its own; later it is an event that says so, and
the last one. However an answer ends, its outputs have ended then. Long whole answers are put together beside the event loop
(``long_answers``).
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import itertools
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from router.http.errors import INTERNAL_FAILURE, Failure, failure_of
from router.http.outputs import Piece
from specgrove.errors import SpecGroveError, UnavailableError
from specgrove.v1 import router_pb2

logger = logging.getLogger(__name__)

Json = dict[str, object]

DONE = b"data: [DONE]\n\n"
"""How most streams of OpenAI's API end."""
_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold events back.
    (b"x-accel-buffering", b"no"),
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
# No ends of lines in JSON or in events, but many clients divide events by whatever Unicode calls one (Python's ``str.splitlines``).
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_STOPPED = UnavailableError("this router has been stopped")
# Answers of more tokens, those beside them in log-probabilities among them, are put together beside the event loop.
_LONG_NUM_TOKENS = 4096
_BLOCK_NUM_PARTS = 4096
_PART_BYTES = 1 << 18


class _UnreadError(Exception):
    """The client reads nothing."""


class WholeFormat(Protocol):
    """How one endpoint writes a whole answer. One object per request."""

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """All pieces as one answer."""
        ...


class StreamFormat(Protocol):
    """How one endpoint writes a stream. One object per request. A chunk with a ``type`` becomes an event of that name."""

    end: bytes
    """What follows the last event."""

    def opening(self) -> Iterable[Json]:
        """Chunks before the first piece."""
        ...

    def chunks(self, piece: Piece) -> Iterable[Json]:
        """A piece's; none where there is nothing to say yet."""
        ...

    def closing(self) -> Iterable[Json]:
        """Chunks after the last piece."""
        ...


class _Answer(Response):
    """A response that is made while it is sent."""

    def __init__(self, pieces: AsyncGenerator[Piece, None], write_timeout_s: float | None) -> None:
        """``write_timeout_s`` is how long a part may wait for its client to read."""
        self._pieces = pieces
        self._write_timeout_s = write_timeout_s
        self._has_started = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until it is sent, or nobody is there to read it."""
        sending = asyncio.create_task(self._send_all(scope, receive, send))
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
            if isinstance(sending.exception(), _UnreadError):
                # The server closes the connection, as the answer is not complete.
                logger.info("a client has read nothing for %s s; its request was ended", self._write_timeout_s)
            else:
                sending.result()
        elif is_stopped and self._has_started:
            await self._stop(send)
        elif is_stopped:
            await failure_of(_STOPPED).response()(scope, receive, send)

    @abc.abstractmethod
    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sets ``_has_started`` when a client has the status."""

    async def _stop(self, send: Send) -> None:
        """Ends what was begun."""

    async def _write(self, send: Send, content: bytes, *, has_more: bool = True) -> None:
        # Waits when the client's side of the connection has no room.
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await send({"type": "http.response.body", "body": content, "more_body": has_more})
        except TimeoutError as error:
            raise _UnreadError from error


class WholeAnswer(_Answer):
    """One JSON object."""

    def __init__(
        self,
        pieces: AsyncGenerator[Piece, None],
        form: WholeFormat,
        write_timeout_s: float | None,
        made_beside: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    ) -> None:
        """``made_beside`` calls a function beside the event loop, where it may take long."""
        super().__init__(pieces, write_timeout_s)
        self._form = form
        self._made_beside = made_beside

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        # While it is sent there is nothing but its bytes: what it was made of is several times as large, and no permit bounds it now.
        content = await self._content()
        self._has_started = True
        length = str(len(content)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # What a connection does not take at once is copied: of a long answer no more at a time than others can wait for.
        for start in range(0, max(len(content), 1), _PART_BYTES):
            end = start + _PART_BYTES
            await self._write(send, content[start:end], has_more=end < len(content))

    async def _content(self) -> bytes:
        async with contextlib.aclosing(self._pieces):
            pieces = [piece async for piece in self._pieces]
        if _is_long(pieces):
            return await self._made_beside(functools.partial(self._long_content_of, pieces))
        return self._content_of(pieces)

    def _content_of(self, pieces: Sequence[Piece]) -> bytes:
        return _json(self._form.whole(pieces))

    def _long_content_of(self, pieces: list[Piece]) -> bytes:
        """Empties ``pieces``. What ``json.dumps`` does in one go, in which no other thread has a turn, this does in many steps."""
        parts = _ENCODER.iterencode(self._form.whole(pieces))
        content = bytearray()
        while block := "".join(itertools.islice(parts, _BLOCK_NUM_PARTS)):
            content += block.encode()
        # One by one, too: they are hundreds of thousands of messages.
        while pieces:
            pieces.pop()
        return bytes(content)


class StreamedAnswer(_Answer):
    """Server-sent events."""

    def __init__(self, pieces: AsyncGenerator[Piece, None], form: StreamFormat, write_timeout_s: float | None) -> None:
        super().__init__(pieces, write_timeout_s)
        self._form = form

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._pieces):
            first = await anext(self._pieces)
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
            self._has_started = True
            await self._send_events_or_failure(send, first)

    async def _stop(self, send: Send) -> None:
        with contextlib.suppress(_UnreadError):
            await self._end(send, failure_of(_STOPPED))

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
        await self._write(send, b"".join(map(_event, (*self._form.opening(), *self._form.chunks(first)))))
        async for piece in self._pieces:
            if events := b"".join(map(_event, self._form.chunks(piece))):
                await self._write(send, events)
        await self._write(send, b"".join(map(_event, self._form.closing())) + self._form.end, has_more=False)

    async def _end(self, send: Send, failure: Failure) -> None:
        await self._write(send, _event(failure.body()), has_more=False)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(chunk: Json) -> bytes:
    name = f"event: {chunk['type']}\n".encode() if "type" in chunk else b""
    content = _ENCODER.encode(chunk)
    for character, escaped in _LINE_ENDS:  # looking for them is quick, which ``str.translate`` is not
        if character in content:
            content = content.replace(character, escaped)
    return name + b"data: " + content.encode() + b"\n\n"


_WithLogProbs = router_pb2.GeneratedToken | router_pb2.PromptToken


def _is_long(pieces: Sequence[Piece]) -> bool:
    num_tokens = 0
    for piece in pieces:
        tokens: Iterable[_WithLogProbs] = itertools.chain(piece.tokens, piece.prompt_tokens)
        for token in tokens:
            num_tokens += 1 + len(token.log_probs.top)
            if num_tokens >= _LONG_NUM_TOKENS:
                return True
    return False


def _json(value: Json) -> bytes:
    return _ENCODER.encode(value).encode()
