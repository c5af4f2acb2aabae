"""Tokenising and detokenising: short texts at once, long ones in a process of its own, one at a time. One object per router.

Invariant: no text is worked on for long on the event loop or beside it in the interpreter, and the memory that texts under way take
has a bound.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from router.text_process import ProcessEndedError, TextProcess, TooSlowError
from specgrove.errors import InternalError, UnavailableError
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Tokenising takes about a millisecond per 4 KiB.
_LONG_BYTES = 4096
# Checking a conversation takes about a millisecond per 100 KiB, or per thousand messages.
_LARGE_REQUEST_BYTES = 65536
# The longest text that is let in takes a second on an idle core. A text that ends the process twice is given up.
_LIMIT_S = 60.0
_MAX_NUM_TRIES = 2
_CLOSED = "the router is going away"

ValueT = TypeVar("ValueT")


class TextWork:
    """Where functions that turn text into tokens or back run."""

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        # The thread only waits for the process; it is the only one that talks to it.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="text")
        self._process: TextProcess | None = None
        self._is_closed = False
        self._place = asyncio.Lock()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self, num_bytes: int) -> AsyncIterator[None]:
        """For looking at a request of this size on the event loop: large ones come one at a time, and streams go on between them."""
        if num_bytes < _LARGE_REQUEST_BYTES:
            yield
            return
        async with self._turn:
            yield
            await asyncio.sleep(0)

    def is_long(self, num_bytes: int) -> bool:
        """Whether ``run`` works on so much text in the process."""
        return num_bytes >= _LONG_BYTES

    async def run(self, tokenizer: Tokenizer, num_bytes: int, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        """``function(tokenizer)``; ``num_bytes`` says how much text it works on. It can be pickled, and its value.

        Raises the ``ValueError`` that it raises, and ``InternalError`` where it fails otherwise.
        """
        if not self.is_long(num_bytes):
            return function(tokenizer)
        return await self.run_apart(tokenizer, function)

    async def run_apart(self, tokenizer: Tokenizer, function: Callable[[Tokenizer], ValueT]) -> ValueT:
        """As ``run``, in the process whatever the text's length: for what may take long, or end the process."""
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
        """Ends the process. Texts under way fail."""
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
                logger.warning("the process for long texts (pid %d) is replaced: a text took too long", process.pid)
                raise InternalError(f"the text could not be worked on within {self._limit_s:g} s") from None
            except ProcessEndedError as error:
                self._end_process()
                problem = str(error)
                if not self._is_closed:
                    logger.warning("the process for long texts (pid %d) is replaced: %s", process.pid, problem)
        raise InternalError(f"the text could not be worked on; its process ended {_MAX_NUM_TRIES} times: {problem}")

    def _process_with(self, tokenizer: Tokenizer) -> TextProcess:
        if self._process is not None and self._process.tokenizer is not tokenizer:
            self._end_process()
        if self._process is None and not self._is_closed:
            self._process = TextProcess(tokenizer)
        # Asked last: ``close`` says so first and then looks for a process, so one that it didn't find is not used.
        if self._process is None or self._is_closed:
            raise UnavailableError(_CLOSED)
        return self._process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
