"""Where mask makers come from: the process that forks them is begun when it is needed, and anew when it has ended.

Used by ``MaskProcesses``, on its thread.
Invariant: of each process that was begun one end is told, and there are never more than ``MaskLimits.num_processes``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence

from llm_service.mask_process import MaskProcess
from llm_service.mask_streams import ForkServer
from specgrove.structures.masks import Answer, Compiled, MaskLimits, Opening
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Processes that fork, and end before they have forked any: after so many of them the next one waits.
_MAX_NUM_VAIN_SERVERS = 2
_REST_S = 5.0

Take = Callable[[MaskProcess, Answer | Compiled], None]
TakeEnd = Callable[[MaskProcess, int | None], None]
Fail = Callable[[MaskProcess, str], None]


class ServerLostError(ConnectionError):
    """The process that forks them has ended, and its end is to be taken."""


class MaskForks:
    """For one vocabulary."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tokenizer: Tokenizer,
        limits: MaskLimits,
        *,
        take: Take,
        take_end: TakeEnd,
        fail: Fail,
    ) -> None:
        """``take`` is told what a process sends; ``take_end`` the exit code, or a signal's number negative, and ``None`` where it ended
        with the one that had forked it; ``fail`` why a process could not be forked.
        """
        self._loop = loop
        self._tokenizer = tokenizer
        self._limits = limits
        self._take = take
        self._take_end = take_end
        self._fail = fail
        self._server: ForkServer | None = None
        self._by_pid: dict[int, MaskProcess] = {}
        self._to_begin: deque[MaskProcess] = deque()  # that the server was asked for and has not told of
        self._num_vain_servers = 0
        self._rests_until_s = 0.0

    @property
    def pids(self) -> Sequence[int]:
        """Of the processes that have begun."""
        return tuple(self._by_pid)

    @property
    def server_pid(self) -> int | None:
        """Of the process that forks them, if there is one."""
        return None if self._server is None else self._server.pid

    @property
    def num_free(self) -> int:
        """How many may begin now."""
        return self._limits.num_processes - len(self._by_pid) - len(self._to_begin)

    @property
    def num_ending(self) -> int:
        """How many of those that are there are asked nothing any more."""
        return sum(
            process.stream is None or process.stream.is_closed for process in (*self._by_pid.values(), *self._to_begin)
        )

    def begin(self, process: MaskProcess) -> None:
        """Of those that are free. Raises ``OSError``; ``ServerLostError`` where ``lose_server`` is to be called, and there is another."""
        assert self.num_free > 0
        if self._server is None and self._loop.time() < self._rests_until_s:
            raise OSError("the process that forks them has ended at its beginning")
        if self._server is None:
            self._server = ForkServer(self._loop, self._tokenizer, self._take_news, self.lose_server)
        process.is_large = self._limits.num_processes - self.num_free < self._limits.num_first
        max_more_bytes = self._limits.first_bytes if process.is_large else self._limits.further_bytes
        try:
            process.stream = self._server.fork(lambda message: self._take(process, message))
        except ConnectionError as error:
            raise ServerLostError from error
        self._to_begin.append(process)
        process.stream.send(Opening(process.structure, process.explores, self._limits, max_more_bytes))

    def end(self) -> None:
        """All of them."""
        if self._server is not None:
            self._server.end()

    def _take_news(self, has_begun: bool, pid: int, status: int) -> None:
        if not pid:
            logger.warning("no mask maker can be forked: %s", os.strerror(status))
            self._fail(self._to_begin.popleft(), os.strerror(status))
        elif has_begun:
            process = self._by_pid[pid] = self._to_begin.popleft()
            process.pid = pid
            if process.stream is None or process.stream.is_closed:  # nobody waits for it any more
                process.kill()
        else:
            process = self._by_pid.pop(pid)
            process.pid = None
            assert self._server is not None
            self._server.release(pid)
            self._take_end(process, status)

    def lose_server(self) -> None:
        """It has ended, and all that it had forked with it."""
        server, self._server = self._server, None
        assert server is not None
        logger.error("the process that forks mask makers has ended; it is begun anew when it is needed")
        server.end()
        lost = [*self._by_pid.values(), *self._to_begin]
        for pid in self._by_pid:  # they end with it, and where this is process 1 they are its own now
            _reap(pid)
        self._by_pid.clear()
        self._to_begin.clear()
        self._num_vain_servers = 0 if server.has_forked else self._num_vain_servers + 1
        if self._num_vain_servers >= _MAX_NUM_VAIN_SERVERS:
            self._rests_until_s = self._loop.time() + _REST_S
        for process in lost:
            process.pid = None
            self._take_end(process, None)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return
