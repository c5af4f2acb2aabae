"""Bodies in turns: few small ones, or one large one, in a turn of the event loop, so that streams go on between. Used by ``app``.

Reading a body's JSON and checking it by its endpoint's model hold the interpreter up, in a thread as well as on the loop. Invariant: no
body has more values than are read in less than 50 ms, and large ones are read and converted one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from router.http.calls import RouterCalls
from router.http.collections_off import collections_off
from router.json_values import MarksOutsideTexts, num_marks
from specgrove.errors import InvalidRequestError
from specgrove.serving.loop_turns import LoopTurns

LARGE_BYTES = 32 * 1024
# A small body costs about as much, whatever is in it.
_CALL_BYTES = 4 * 1024
_TURN_BYTES = 16 * 1024
# The dearest are keys and numbers with exponents: 0.2 to 0.4 us each.
_BYTES_PER_VALUE = 8


def routes_in_turns(calls: RouterCalls, max_body_bytes: int) -> type[APIRoute]:
    """For the routers of one application."""
    turns, large = LoopTurns(_TURN_BYTES), asyncio.Lock()
    max_num_values = max_body_bytes // _BYTES_PER_VALUE

    async def check(content: bytes) -> None:
        if num_marks(content) <= max_num_values:
            return
        # A text may have so many commas.
        if await calls.apart(MarksOutsideTexts(content)) > max_num_values:
            raise InvalidRequestError.of("request", f"the body has more than {max_num_values} values")

    class InTurns(APIRoute):
        """An endpoint."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """One that waits for its turn."""
            handle = super().get_route_handler()

            async def handle_in_turn(request: Request) -> Response:
                content = await request.body()
                if len(content) < LARGE_BYTES:
                    await turns.take(_CALL_BYTES + len(content))
                    return await handle(request)
                # Until its request is made. The answer comes after that.
                async with large:
                    await check(content)
                    await turns.take(len(content))
                    with collections_off():
                        return await handle(request)

            return handle_in_turn

    return InTurns
