"""Gives each HTTP request its ids, tells its client one, and marks the lines that the log has of it. Used by ``app``."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.request_ids import HEADER, begin_call
from specgrove.telemetry.logs import mark_lines


class RequestIds:
    """Middleware around all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The client's id is answered as it came, if it is well-formed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ids = begin_call(Headers(scope=scope).get(HEADER))
        mark_lines(ids.ours)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = ids.told
            await send(message)

        await self._app(scope, receive, telling)
