"""What a service says of its health: the state, and gRPC's standard health service on top of it for servers of asyncio.

Owned by ``Server``, which sets it; read by all its addresses and by ``health_server``, from other threads, too. Invariant: once draining, a
service is never ready again; ``liveness`` is SERVING for as long as anybody answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIVENESS = "liveness"
"""The name that says whether the process answers at all. One that loads or drains does; one that doesn't should be started anew."""

_Statuses = health_pb2.HealthCheckResponse


class Health:
    """Whether a service is ready. Not ready at first."""

    def __init__(self, service_names: Sequence[str]) -> None:
        """The names that are asked for readiness; the empty one is, too."""
        self.service_names = tuple(service_names)
        self._is_serving = False
        self._is_draining = False
        self._observers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    @property
    def is_serving(self) -> bool:
        """Whether it is ready."""
        return self._is_serving

    def set_serving(self, is_serving: bool) -> None:
        """From now on. Without effect on one that drains."""
        with self._lock:
            self._is_serving = is_serving and not self._is_draining
            observers = tuple(self._observers)
        for changed in observers:
            changed()

    def drain(self) -> None:
        """Not ready from now on, for good."""
        with self._lock:
            self._is_draining = True
        self.set_serving(False)

    def status_of(self, name: str) -> int | None:
        """SERVING or NOT_SERVING, as gRPC numbers them; ``None`` for a name that nobody knows."""
        if name == LIVENESS:
            return int(_Statuses.SERVING)
        if name and name not in self.service_names:
            return None
        return int(_Statuses.SERVING if self._is_serving else _Statuses.NOT_SERVING)

    @contextlib.contextmanager
    def observed(self, changed: Callable[[], None]) -> Iterator[None]:
        """Within the block ``changed`` is called after each change, by the thread that makes it."""
        with self._lock:
            self._observers.add(changed)
        try:
            yield
        finally:
            with self._lock:
                self._observers.discard(changed)


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """gRPC's health service on an event loop.

    Not the one of grpcio-health-checking: there the first ``Watch`` of a name that ends takes the others' news away.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """The status now."""
        status = self._health.status_of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, unknown_name(request.service))
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:  # noqa: N802
        """The status now, and each time that it changes."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(changed.set)

        last = None
        with self._health.observed(notify):
            while True:
                changed.clear()
                if (status := watched_status(self._health, request.service)) != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                    last = status
                await changed.wait()


def watched_status(health: Health, name: str) -> int:
    """The same as ``Watch`` says it."""
    status = health.status_of(name)
    return int(_Statuses.SERVICE_UNKNOWN) if status is None else status


def unknown_name(name: str) -> str:
    """In words for people."""
    return f"nothing is called {name!r} here"
