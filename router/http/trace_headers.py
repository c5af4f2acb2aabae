"""The trace context that an HTTP request came with, for the calls that it becomes. Set in ``app``, read by ``calls``."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from specgrove.telemetry.tracing import HEADERS

Metadata = tuple[tuple[str, str], ...]

_of_request: ContextVar[Metadata] = ContextVar("trace_headers", default=())


def trace_headers() -> Metadata:
    """The trace headers of the request under way, as gRPC would have them in its metadata."""
    return _of_request.get()


class TraceHeaders:
    """Middleware that keeps W3C's headers for the task that serves the request, and for those that it starts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            _of_request.set(tuple((name, headers[name]) for name in HEADERS if name in headers))
        await self._app(scope, receive, send)
