"""Tokenising and detokenising: short texts at once, long ones and conversations in processes of their own. One object per router.

A chat template is a program that comes with a model: only a process can be ended whatever it does. Those of short conversations have a
process that does nothing else, and need not wait for long texts. Invariant: no text is worked on for long on the event loop or beside it
in the interpreter, and the memory that texts under way take has a bound.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable
from typing import TypeVar

from router.text_process import ProcessEndedError, TextProcess, TooSlowError
from specgrove.errors import InternalError, SpecGroveError, UnavailableError
from specgrove.serving.loop_turns import LoopTurns
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Tokenising takes about a millisecond per 4 KiB.
_LONG_BYTES = 4096
# In a turn of the event loop: one such text at most, which may take ten milliseconds where it is of digits, or a few small ones.
_TURN_BYTES = 4096
_SHORT_TEXT_BYTES = 256
# Checking a conversation takes about a millisecond per 100 KiB, or per thousand messages.
_TURN_CHECKED_BYTES = 65536
# Of processor time. The longest text that is let in takes a second, a short conversation milliseconds. A text that ends the process
# twice is given up.
_LIMIT_S = 60.0
_CHAT_LIMIT_S = 2.0
_MAX_NUM_TRIES = 2
_CLOSED = "the router is going away"

ValueT = TypeVar("ValueT")


class TextWork:
    """Where functions that turn text into tokens or back run."""

    def __init__(self, limit_s: float = _LIMIT_S, *, renders_apart: bool = False) -> None:
        """``renders_apart``: short conversations have a process, too; else they are rendered on the event loop."""
        self._long = _Place("long texts", limit_s, is_low_priority=True)
        self._chats = (
            _Place("short conversations", min(limit_s, _CHAT_LIMIT_S), is_low_priority=False) if renders_apart else None
        )
        self._turns = LoopTurns(_TURN_BYTES)
        self._checking = LoopTurns(_TURN_CHECKED_BYTES)

    async def turn(self, num_bytes: int) -> None:
        """Before looking at a request of this size on the event loop: of large ones there is one in a turn, and streams go on between."""
        await self._checking.take(num_bytes)

    def is_long(self, num_bytes: int) -> bool:
        """Whether ``run`` works on so much text in the process."""
        return num_bytes >= _LONG_BYTES

    async def run(self, tokenizer: Tokenizer, num_bytes: int, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        """``function(tokenizer)``; ``num_bytes`` says how much text it works on. It can be pickled, and its value.

        Raises the ``ValueError`` that it raises, and ``InternalError`` where it fails otherwise.
        """
        if not self.is_long(num_bytes):
            await self._turns.take(_SHORT_TEXT_BYTES + num_bytes)
            return function(tokenizer)
        return await self.run_apart(tokenizer, function)

    async def run_chat(self, tokenizer: Tokenizer, num_bytes: int, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        """As ``run``, for what renders a conversation."""
        if self._chats is None or self.is_long(num_bytes):
            return await self.run(tokenizer, num_bytes, function)
        return await self._chats.run(tokenizer, function)

    async def run_apart(self, tokenizer: Tokenizer, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        """As ``run``, in the process whatever the text's length: for what may take long, or end the process."""
        return await self._long.run(tokenizer, function)

    async def prepare(self, tokenizer: Tokenizer) -> None:
        """Starts the process for short conversations: the first one need not wait for that. What fails is told to those who need it."""
        if self._chats is not None:
            try:
                await self._chats.run(tokenizer, _nothing)
            except Exception as error:
                is_defect = not isinstance(error, SpecGroveError)
                logger.warning(
                    "conversations can't be rendered: %s: %s", type(error).__name__, error, exc_info=is_defect
                )

    def close(self) -> None:
        """Ends the processes. Texts under way fail."""
        for place in (self._long, self._chats):
            if place is not None:
                place.close()


class _Place:
    """One process, and one text after another in it."""

    def __init__(self, what: str, limit_s: float, *, is_low_priority: bool) -> None:
        self._what = what
        self._limit_s = limit_s
        self._is_low_priority = is_low_priority
        # The thread only waits for the process; it is the only one that talks to it.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="text")
        self._process: TextProcess | None = None
        self._is_closed = False
        self._place = asyncio.Lock()

    async def run(self, tokenizer: Tokenizer, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        await self._place.acquire()
        if self._is_closed:
            self._place.release()
            raise UnavailableError(_CLOSED)
        working = asyncio.get_running_loop().run_in_executor(self._thread, self._in_process, tokenizer, function)
        # The thread has no second text to come to, so a client that waits and goes away leaves nothing behind. One whose text is being
        # worked on leaves that: its place is given back when it is done.
        working.add_done_callback(lambda _: self._place.release())
        return await asyncio.shield(working)

    def close(self) -> None:
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        self._thread.submit(self._end_process)
        self._thread.shutdown(wait=False)

    def _in_process(self, tokenizer: Tokenizer, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        problem = ""
        for _ in range(_MAX_NUM_TRIES):
            process = self._process_with(tokenizer)
            try:
                return process.run(function, self._limit_s)
            except TooSlowError:
                # Once is enough: others wait for it.
                self._end_process()
                logger.warning("the process for %s (pid %d) is replaced: a text took too long", self._what, process.pid)
                raise InternalError(f"the text could not be worked on within {self._limit_s:g} s") from None
            except ProcessEndedError as error:
                self._end_process()
                problem = str(error)
                if not self._is_closed:
                    logger.warning("the process for %s (pid %d) is replaced: %s", self._what, process.pid, problem)
        raise InternalError(f"the text could not be worked on; its process ended {_MAX_NUM_TRIES} times: {problem}")

    def _process_with(self, tokenizer: Tokenizer) -> TextProcess:
        if self._process is not None and self._process.tokenizer is not tokenizer:
            self._end_process()
        if self._process is None and not self._is_closed:
            self._process = TextProcess(tokenizer, self._what, is_low_priority=self._is_low_priority)
        # Asked last: ``close`` says so first and then looks for a process, so one that it didn't find is not used.
        if self._process is None or self._is_closed:
            raise UnavailableError(_CLOSED)
        return self._process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _nothing(tokenizer: Tokenizer) -> None:
    """Enough for the process to have its tokenizer."""
