"""Whether a service takes new work, as it says itself by ``grpc.health.v1.Health/Watch``. Owned by a router's replica.

Invariant: a service that doesn't say so (one without health, or without this name) is taken to be serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

logger = logging.getLogger(__name__)

# The first answer comes with the call; who takes longer doesn't say how it is.
_FIRST_ANSWER_S = 5.0
# A call that ended while its connection goes on is made anew after this time.
_RETRY_S = 1.0


class HealthWatch:
    """Follows one service from ``start``, at each connection, to ``stop``."""

    def __init__(self, service_name: str, address: str, on_change: Callable[[], None] = lambda: None) -> None:
        """``on_change`` is told whenever ``is_serving`` has changed. ``address`` is for the log."""
        self._request = health_pb2.HealthCheckRequest(service=service_name)
        self._address = address
        self._on_change = on_change
        self._following: asyncio.Task[None] | None = None
        self.is_serving = True

    async def start(self, channel: grpc.aio.Channel) -> None:
        """Returns when the service has said how it is, or will not say so; follows it in the background from then on."""
        self.stop()
        told = asyncio.Event()
        self._following = asyncio.create_task(self._follow(health_pb2_grpc.HealthStub(channel), told))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_ANSWER_S):
                await told.wait()

    def stop(self) -> None:
        """The connection was lost: what the service said last stands until the next ``start``."""
        if self._following is not None:
            self._following.cancel()
            self._following = None

    async def _follow(self, stub: Any, told: asyncio.Event) -> None:
        while True:
            call = stub.Watch(self._request)
            try:
                async for answer in call:
                    self._set(answer.status != health_pb2.HealthCheckResponse.NOT_SERVING)
                    told.set()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._set(True)
                    return
            finally:
                told.set()
                call.cancel()
            await asyncio.sleep(_RETRY_S)

    def _set(self, is_serving: bool) -> None:
        if is_serving == self.is_serving:
            return
        self.is_serving = is_serving
        logger.info(
            "%s: %s", self._address, "takes new work" if is_serving else "takes no new work: its health is NOT_SERVING"
        )
        self._on_change()
