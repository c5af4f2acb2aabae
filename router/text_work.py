"""Tokenising and detokenising: short texts at once, long ones in threads and few at a time. One object per router.

Invariant: no text is worked on for long on the event loop, and the memory that texts under way take has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

# Tokenising takes about a millisecond per 4 KiB.
_LONG_BYTES = 4096
# A token takes a hundred bytes or more while its text is being tokenised.
_MAX_NUM_LONG = 2

ValueT = TypeVar("ValueT")


class TextWork:
    """Where ``function``s that turn text into tokens or back run."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_MAX_NUM_LONG)

    async def run(self, num_bytes: int, function: Callable[[], ValueT]) -> ValueT:
        """The function's value; ``num_bytes`` says how much text it works on."""
        if num_bytes < _LONG_BYTES:
            return function()
        async with self._places:
            return await asyncio.to_thread(function)
