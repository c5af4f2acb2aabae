"""Calls that close sessions at services, which nobody waits for. Used by the remote verifier and the SSM replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

logger = logging.getLogger(__name__)

# A service that computes may be long in answering; what is not closed keeps its KV slots until it expires.
_CLOSE_TIMEOUT_S = 60.0
_LAST_CLOSES_S = 2.0  # that a router which stops waits for


class SessionCloses:
    """Those under way. Never raises: a session that is not closed expires."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, method: Callable[..., Awaitable[Any]], request: Any) -> None:
        """Calls a ``CloseSession`` in the background."""
        task = asyncio.create_task(_run(method(request, timeout=_CLOSE_TIMEOUT_S)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Returns when all closing is done, or has taken too long."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_LAST_CLOSES_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def _run(call: Awaitable[Any]) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        logger.info("a session was not closed, it will expire: %s", error.details())
