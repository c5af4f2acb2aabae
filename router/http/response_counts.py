"""How HTTP requests were answered, those among them that never reach the router's service: without a key, to no endpoint, no JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specgrove.telemetry.metrics import Kind, Metric, Reading

RESPONSES = Metric(
    "specgrove_router_http_responses_total",
    Kind.COUNTER,
    "HTTP responses by endpoint and status. A stream that fails after its first piece has status 200; no endpoint is told of those "
    "that none took.",
    labels=("endpoint", "status"),
)


class ResponseCounts:
    """One per HTTP API."""

    def __init__(self) -> None:
        self.num_responses: Counter[tuple[str, ...]] = Counter()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(RESPONSES, self.num_responses)


class ResponseCounting:
    """Middleware around all others but ``UsualPaths``."""

    def __init__(self, app: ASGIApp, *, counts: ResponseCounts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts a response when it begins."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = getattr(scope.get("route"), "path", "")
                self._counts.num_responses[(endpoint, str(message["status"]))] += 1
            await send(message)

        await self._app(scope, receive, counting)
