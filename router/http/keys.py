"""API keys: who may ask. Used by ``app``."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.errors import failure_of
from specgrove.errors import UnauthorizedError

# For probes, and for people who look.
_OPEN_PATHS = ("/health", "/docs", "/openapi.json")


class KeyCheck:
    """Middleware that lets requests pass that carry ``authorization: Bearer KEY`` with one of the keys."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers others with 401."""
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS or self._is_allowed(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("the header 'Authorization: Bearer KEY' is missing, or its key is wrong")
        await failure_of(error).response()(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # All are compared, each in a time that doesn't tell how much of it is right.
        is_known = [hmac.compare_digest(key, given.strip().encode()) for key in self._keys]
        return scheme.lower() == "bearer" and any(is_known)
