"""Several streams as one. Used where one request has several outputs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")

# Items of a stream that wait for their client to read: then the model's steps wait, as they do for one stream.
_NUM_WAITING = 4


def merged(streams: Sequence[AsyncGenerator[ItemT, None]]) -> AsyncGenerator[ItemT, None]:
    """The items of all streams as they come, those of each in order. Raises what ends any of them.

    When it ends or is closed, all streams are closed.
    """
    return streams[0] if len(streams) == 1 else _merged(streams)


async def _merged(streams: Sequence[AsyncGenerator[ItemT, None]]) -> AsyncGenerator[ItemT, None]:
    waiting: asyncio.Queue[ItemT | _End] = asyncio.Queue(_NUM_WAITING * len(streams))

    async def read(stream: AsyncGenerator[ItemT, None]) -> None:
        try:
            async with contextlib.aclosing(stream) as items:
                async for item in items:
                    await waiting.put(item)
        except Exception as error:
            await waiting.put(_End(error))
        else:
            await waiting.put(_End(None))

    readers = [asyncio.create_task(read(stream)) for stream in streams]
    num_left = len(streams)
    try:
        while num_left:
            item = await waiting.get()
            if not isinstance(item, _End):
                yield item
                continue
            if item.error is not None:
                raise item.error
            num_left -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


class _End:
    """Marks the end of one of the streams."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
