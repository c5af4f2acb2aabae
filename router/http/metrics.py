"""``/metrics``: what Prometheus reads, on the HTTP API's address, and on one of its own where that is asked for. Made by ``router.app``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.types import Receive, Scope, Send


class MetricsEndpoint:
    """An ASGI application that answers any path."""

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]]) -> None:
        """``refresh`` is awaited before each answer: what the services behind the router have to say."""
        self._app = make_asgi_app(registry)
        self._refresh = refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a scrape."""
        await self._refresh()
        # In plain text, as in ``specgrove.telemetry.metrics.server``.
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
        await self._app({**scope, "headers": headers}, receive, send)
