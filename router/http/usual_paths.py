"""Requests that mean an endpoint without naming it exactly: ``HEAD`` for ``GET``, and a slash behind the path. Used by ``app``.

Probes of load balancers ask by ``HEAD``. A redirect to the path without the slash would be a wrong one behind a proxy that ends TLS: it
names the scheme that the router sees. Invariant: what is not the API's, the chat page's requests, comes through as it is.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.page import is_api_path


class UsualPaths:
    """Middleware around all others but ``RequestIds``."""

    def __init__(self, app: ASGIApp, *, api_paths: Collection[str]) -> None:
        self._app = app
        self._api_paths = frozenset(api_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server leaves out the body of an answer to ``HEAD``: it keeps the scope that it has made."""
        await self._app(self._as_meant(scope) if scope["type"] == "http" else scope, receive, send)

    def _as_meant(self, scope: Scope) -> Scope:
        path = scope["path"]
        if path not in self._api_paths and is_api_path(shorter := path.rstrip("/"), self._api_paths):
            path = shorter
        is_head = scope["method"] == "HEAD" and is_api_path(path, self._api_paths)
        if path == scope["path"] and not is_head:
            return scope
        return {**scope, "path": path, "method": "GET" if is_head else scope["method"]}
