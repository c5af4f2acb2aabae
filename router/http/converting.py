"""Where bodies are converted: on the event loop, or beside it. Used by the endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

ValueT = TypeVar("ValueT")

_LONG_BYTES = 32 * 1024


async def converted(request: Request, convert: Callable[[], ValueT]) -> ValueT:
    """Where there is much to convert, the event loop gets its turns meanwhile."""
    if len(await request.body()) < _LONG_BYTES:
        return convert()
    return await asyncio.to_thread(convert)
