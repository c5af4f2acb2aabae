"""Bodies in turns: few small ones, or one large one, in a turn of the event loop, so that streams go on between. Used by ``app``.

Reading a body's JSON and checking it by its endpoint's model hold the interpreter up, in a thread as well as on the loop. Invariants: no
body has more values than are read in less than 50 ms. Large ones are read and converted one after another, and whose turn it is waits for
nothing else; for as long as reading one held the loop up, no other is read. Those that wait have a bound.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from router.json_values import SLICE_BYTES, marks_outside_texts, num_marks
from specgrove.errors import InvalidRequestError, ResourceExhaustedError
from specgrove.serving.loop_turns import LoopTurns

LARGE_BYTES = 32 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of large bodies; one may have more where nobody else's waits."""
# Of bodies, by https://www.iana.org/assignments/http-parameters; no other text in their place can be meant as one.
_CODINGS = ("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd")
# A small body costs about as much, whatever is in it.
_CALL_BYTES = 4 * 1024
_TURN_BYTES = 16 * 1024
# The dearest are keys and numbers with exponents: 0.2 to 0.4 us each.
_BYTES_PER_VALUE = 8
# Reading as many bytes as may wait takes about so long.
_RETRY_DELAYS_MS = (1000, 4000)

ValueT = TypeVar("ValueT")


class LargeBodies:
    """Those of one application: one is read and converted, others wait."""

    def __init__(
        self,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``max_waiting_bytes`` counts the one whose turn it is, too. ``sleep`` takes seconds."""
        self._max_waiting_bytes = max_waiting_bytes
        self._sleep = sleep
        self._random = Random()
        # Long answers may have all threads of the loop's pool.
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self.lock = asyncio.Lock()
        self.num_bytes = 0
        """Of bodies that wait or are being converted."""

    def place(self, num_bytes: int) -> _Place:
        """For ``async with``, which waits for the body's turn. Raises ``ResourceExhaustedError`` where too much waits already."""
        if self.num_bytes and self.num_bytes + num_bytes > self._max_waiting_bytes:
            raise ResourceExhaustedError(
                f"large bodies of {self.num_bytes} bytes wait to be read, and {self._max_waiting_bytes} may",
                round(self._random.uniform(*_RETRY_DELAYS_MS)),
            )
        return _Place(self, num_bytes)

    async def read(self, request: Request) -> None:
        """Reads its JSON, once, which holds the loop up; then others have the loop for as long. Streams take several turns for a token."""
        started_s = time.perf_counter()
        try:
            await request.json()
        except (ValueError, RecursionError) as error:
            _fail_again(request, error)
        await self._sleep(time.perf_counter() - started_s)


def _fail_again(request: Request, error: Exception) -> None:
    """FastAPI, which asks for the JSON next, says what is wrong with it; it is not read for that again."""

    async def fail() -> NoReturn:
        raise error

    request.json = fail  # type: ignore[method-assign]


class _Place:
    """One body's."""

    def __init__(self, bodies: LargeBodies, num_bytes: int) -> None:
        self._bodies = bodies
        self._num_bytes = num_bytes
        self._has_turn = False

    async def __aenter__(self) -> None:
        self._bodies.num_bytes += self._num_bytes
        try:
            await self._bodies.lock.acquire()
        except asyncio.CancelledError:
            self._bodies.num_bytes -= self._num_bytes
            raise
        self._has_turn = True

    async def __aexit__(self, *_: object) -> None:
        self._end()

    async def converted(self, convert: Callable[[], ValueT]) -> ValueT:
        """In a thread. Afterwards it is the next one's turn."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._bodies.thread, convert)
        finally:
            self._end()

    def _end(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._bodies.num_bytes -= self._num_bytes
            self._bodies.lock.release()


def routes_in_turns(max_body_bytes: int, large: LargeBodies) -> type[APIRoute]:
    """For the routers of one application."""
    turns = LoopTurns(_TURN_BYTES)
    max_num_values = max_body_bytes // _BYTES_PER_VALUE

    async def check(content: bytes) -> None:
        if num_marks(content) <= max_num_values:
            return
        # A text may have so many commas.
        num_values = 0
        for num_more in marks_outside_texts(content):
            num_values += num_more
            if num_values > max_num_values:
                raise InvalidRequestError.of("request", f"the body has more than {max_num_values} values")
            await turns.take(SLICE_BYTES)

    class InTurns(APIRoute):
        """An endpoint. It calls ``converted`` before it waits for anything."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """One that waits for its turn."""
            handle = super().get_route_handler()

            async def handle_in_turn(request: Request) -> Response:
                try:
                    content = await request.body()
                except ClientDisconnect:
                    return _unread()
                # Some clients send the header with requests that have no body, or mean the character set.
                if content and (coding := request.headers.get("content-encoding", "").strip().lower()) in _CODINGS:
                    description = f"Content-Encoding {coding} is not supported: send the body as it is"
                    raise HTTPException(415, description, {"accept-encoding": "identity"})
                # What Python's parser would read as something else has other bytes for commas.
                if not json.detect_encoding(content).startswith("utf-8"):
                    raise InvalidRequestError.of("request", "the body must be JSON in UTF-8")
                request.state.place = None
                if len(content) < LARGE_BYTES:
                    await turns.take(_CALL_BYTES + len(content))
                    return await handle(request)
                request.state.place = place = large.place(len(content))
                async with place:
                    if await request.is_disconnected():
                        return _unread()
                    await check(content)
                    await turns.take(len(content))
                    await large.read(request)
                    return await handle(request)

            return handle_in_turn

    return InTurns


async def converted(request: Request, convert: Callable[[], ValueT]) -> ValueT:
    """For endpoints: their request of their body. Where there is much to convert, the event loop gets its turns meanwhile."""
    place: _Place | None = request.state.place
    return convert() if place is None else await place.converted(convert)


def _unread() -> Response:
    """To a client that has gone."""
    return Response(status_code=400)
