"""A step loop of this process as ``Drafter`` and ``Verifier``: the speculation loop without a network.

For tests and benchmarks. The counterparts over gRPC are in ``router.remote_verifier`` and ``router.remote_drafter``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Generic, TypeVar

from specgrove.errors import SpecGroveError, UnavailableError
from specgrove.loop.suspects import SuspectTurn
from specgrove.loop.works import Draft, DraftWork, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.mailbox import Answer

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class _InProcessSession(Generic[WorkT, ResultT]):
    """One request at a step loop, and its mailbox: the loop's thread posts to it, a coroutine takes what has come."""

    def __init__(self, session_id: str, loop: StepLoop[WorkT, ResultT]) -> None:
        self._session_id = session_id
        self._loop = loop
        self._event_loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[ResultT | SpecGroveError] = asyncio.Queue()

    def post(self, answers: Sequence[Answer[int | None, ResultT]]) -> None:
        """See ``specgrove.serving.mailbox.Mailbox``."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._event_loop.call_soon_threadsafe(self._put, answers)

    def _put(self, answers: Sequence[Answer[int | None, ResultT]]) -> None:
        for answer in answers:
            self._arrived.put_nowait(answer.result)

    async def answer(self) -> ResultT:
        """The next result of what was asked. Raises the ``SpecGroveError`` that the engine gave."""
        result = await self._arrived.get()
        if isinstance(result, SpecGroveError):
            raise result
        return result

    async def close(self) -> None:
        """Forgets the request, and ends what is under way."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(self._session_id))


class InProcessVerifierSession(_InProcessSession[VerifyWork, "Verdict | PromptProgress"]):
    """See ``specgrove.loop.verifying.VerifierSession``."""

    def __init__(
        self, session_id: str, loop: StepLoop[VerifyWork, Verdict | PromptProgress], suspects: asyncio.Lock
    ) -> None:
        super().__init__(session_id, loop)
        self._suspects = suspects
        self._turn = SuspectTurn()

    async def ask(self, work: VerifyWork) -> None:
        """Submits it; a suspect when no other is under way."""
        if work.is_suspect:
            await self._turn.take(self._suspects)
        self._loop.submit(work, self, None)

    async def answer(self) -> Verdict | PromptProgress:
        """The next result of what was asked. Raises the ``SpecGroveError`` that the engine gave."""
        try:
            found = await super().answer()
        except SpecGroveError:
            self._turn.end()
            raise
        if isinstance(found, Verdict):
            self._turn.end()  # the work does no harm
        return found

    def finish_early(self) -> None:
        """Makes the work's next verdict its last one."""
        self._loop.finish_early(lambda work: work.session_id == self._session_id)

    async def close(self) -> None:
        """Forgets the request, and ends what is under way."""
        self._turn.end()
        await super().close()


class InProcessVerifier:
    """See ``specgrove.loop.verifying.Verifier``."""

    def __init__(self, loop: StepLoop[VerifyWork, Verdict | PromptProgress]) -> None:
        self._loop = loop
        self._suspects = asyncio.Lock()

    def session(self, session_id: str) -> InProcessVerifierSession:
        """For one request."""
        return InProcessVerifierSession(session_id, self._loop, self._suspects)


class InProcessDrafterSession(_InProcessSession[DraftWork, Draft]):
    """See ``specgrove.loop.drafter_side.DrafterSession``."""

    def __init__(self, session_id: str, loop: StepLoop[DraftWork, Draft]) -> None:
        super().__init__(session_id, loop)
        self._num_works = 0

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        """Always."""
        return True

    def ask(self, work: DraftWork) -> bool:
        """Submits it."""
        self._num_works += 1
        self._arrived = asyncio.Queue()
        self._loop.submit(work, self, self._num_works)
        return work.ahead_ms > 0

    def grown(self) -> list[Draft]:
        """What has come since the answer."""
        found = []
        while not self._arrived.empty():
            result = self._arrived.get_nowait()
            if not isinstance(result, SpecGroveError):
                found.append(result)
        return found

    def _put(self, answers: Sequence[Answer[int | None, Draft]]) -> None:
        super()._put([answer for answer in answers if answer.key == self._num_works])


class InProcessDrafter:
    """See ``specgrove.loop.drafter_side.Drafter``."""

    def __init__(self, loop: StepLoop[DraftWork, Draft]) -> None:
        self._loop = loop

    def session(self, session_id: str) -> InProcessDrafterSession:
        """For one request."""
        return InProcessDrafterSession(session_id, self._loop)
