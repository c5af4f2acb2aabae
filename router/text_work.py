"""Tokenising and detokenising: short texts at once, long ones in a thread and one at a time. One object per router.

Invariant: no text is worked on for long on the event loop, and the memory that texts under way take has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

# Tokenising takes about a millisecond per 4 KiB.
_LONG_BYTES = 4096

ValueT = TypeVar("ValueT")


class TextWork:
    """Where ``function``s that turn text into tokens or back run."""

    def __init__(self) -> None:
        # Of two threads in the interpreter the event loop gets its turn half as soon: with one it is held up by less than 50 ms. And a
        # token takes a hundred bytes or more while its text is being tokenised.
        self._place = asyncio.Lock()

    async def run(self, num_bytes: int, function: Callable[[], ValueT]) -> ValueT:
        """The function's value; ``num_bytes`` says how much text it works on."""
        if num_bytes < _LONG_BYTES:
            return function()
        async with self._place:
            return await asyncio.to_thread(function)
