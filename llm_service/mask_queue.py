"""Structures that wait for a process, in turn. Used by ``MaskProcesses``, on its thread.

Invariant: what waits begins as soon as there is a place, or is refused after ``MaskLimits.wait_s``. Processes begin in turns of the loop of
their own, never amid what is done to others: whatever that is, it is whole by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from llm_service.mask_forks import MaskForks, ServerLostError
from llm_service.mask_process import MaskProcess

logger = logging.getLogger(__name__)


class MaskQueue:
    """For one vocabulary."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        forks: MaskForks,
        wait_s: float,
        *,
        take_begun: Callable[[MaskProcess], None],
        make_room: Callable[[], None],
        fail: Callable[[MaskProcess, str], None],
        refuse: Callable[[MaskProcess], None],
    ) -> None:
        """``take_begun`` is told of one that has its stream now; ``make_room`` that there are not enough places; ``fail`` why a process
        could not be begun; ``refuse`` that one has waited too long.
        """
        self._loop = loop
        self._forks = forks
        self._wait_s = wait_s
        self._take_begun = take_begun
        self._make_room = make_room
        self._fail = fail
        self._refuse = refuse
        self._waiting: deque[MaskProcess] = deque()
        self._will_begin = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, process: MaskProcess) -> None:
        """At the end, if it is not there."""
        if process not in self._waiting:
            self._waiting.append(process)
            self._loop.call_later(self._wait_s, self._refuse_late, process)
            self.begin_soon()

    def remove(self, process: MaskProcess) -> None:
        """If it is there."""
        if process in self._waiting:
            self._waiting.remove(process)

    def begin_soon(self) -> None:
        """To be called when there may be a place."""
        if self._waiting and not self._will_begin:
            self._will_begin = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._will_begin = False
        while self._waiting and self._forks.num_free > 0:
            process = self._waiting.popleft()
            try:
                self._forks.begin(process)
            except ServerLostError:
                self._waiting.appendleft(process)
                self._forks.lose_server()
            except OSError as error:
                logger.warning("no mask maker can be begun: %s", error)
                self._fail(process, str(error))
            else:
                self._take_begun(process)
        if self._waiting:
            self._make_room()

    def _refuse_late(self, process: MaskProcess) -> None:
        if process in self._waiting:
            self._refuse(process)
