"""How much a client may send: refused by its announced size, or as soon as it is too much. Used by ``app``."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.http.errors import http_failure

# What is read off before the refusal, so that a client that sends first and reads then gets to read it.
_MAX_READ_OFF_BYTES = 64 * 1024 * 1024


class BodyLimit:
    """Middleware that answers longer bodies with 413."""

    def __init__(self, app: ASGIApp, *, max_num_bytes: int) -> None:
        self._app = app
        self._max_num_bytes = max_num_bytes
        self._refusal = f"the body is too large: at most {max_num_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_num_bytes:
            response = http_failure(413, self._refusal).response()
            if Headers(scope=scope).get("expect", "").lower() == "100-continue":
                # The client, curl for one, waits with its body, and need not send it.
                response.headers["connection"] = "close"
            else:
                await _read_off(receive)
            await response(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_num_bytes:
                if message.get("more_body"):
                    await _read_off(receive)
                raise HTTPException(413, self._refusal)
            return message

        await self._app(scope, counted, send)


async def _read_off(receive: Receive) -> None:
    num_bytes, has_more = 0, True
    while has_more and num_bytes < _MAX_READ_OFF_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        has_more = message.get("more_body", False)
