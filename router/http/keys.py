"""API keys by HTTP. Used by ``app``."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.errors import failure_of
from specgrove.errors import UnauthorizedError
from specgrove.serving.api_keys import ApiKeys

# For probes, and for people who look.
_OPEN_PATHS = ("/health", "/docs", "/openapi.json")


class KeyCheck:
    """Middleware that lets requests pass that carry a key."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers others with 401."""
        problem = None
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            problem = self._keys.problem(Headers(scope=scope).get("authorization"))
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await failure_of(UnauthorizedError(problem)).response()(scope, receive, send)
