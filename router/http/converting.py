"""Where bodies are converted: on the event loop, or beside it. Used by the endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from router.http.large_bodies import LARGE_BYTES

ValueT = TypeVar("ValueT")


async def converted(request: Request, convert: Callable[[], ValueT]) -> ValueT:
    """Where there is much to convert, the event loop gets its turns meanwhile."""
    if len(await request.body()) < LARGE_BYTES:
        return convert()
    return await asyncio.to_thread(convert)
