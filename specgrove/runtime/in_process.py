"""A step loop of this process for coroutines, and as ``Drafter`` and ``Verifier``: the speculation loop without a network.

For tests and benchmarks. The counterparts over gRPC are in ``router.remote_verifier`` and ``router.remote_drafter``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar

from specgrove.errors import SpecGroveError, UnavailableError
from specgrove.loop.request import Draft, DraftWork, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.mailbox import Answer

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class _Arrivals(Generic[ResultT]):
    """The mailbox of one item whose results a coroutine waits for."""

    def __init__(self) -> None:
        self._event_loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Answer[None, ResultT]] = asyncio.Queue()

    def post(self, answers: Sequence[Answer[None, ResultT]]) -> None:
        """See ``Mailbox``."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._event_loop.call_soon_threadsafe(self._take, answers)

    def _take(self, answers: Sequence[Answer[None, ResultT]]) -> None:
        for answer in answers:
            self.queue.put_nowait(answer)


async def results_of(loop: StepLoop[WorkT, ResultT], work: WorkT) -> AsyncGenerator[ResultT, None]:
    """All results of one item, each as soon as it is there. Raises the ``SpecGroveError`` that the engine gave."""
    arrivals = _Arrivals[ResultT]()
    loop.submit(work, arrivals, None)
    is_over = False
    try:
        while not is_over:
            answer = await arrivals.queue.get()
            is_over = answer.is_last
            if isinstance(answer.result, SpecGroveError):
                raise answer.result
            yield answer.result
    finally:
        if not is_over:
            loop.finish_early(lambda other: other is work)


class InProcessVerifier:
    """The ``Verifier`` protocol."""

    def __init__(self, loop: StepLoop[VerifyWork, Verdict | PromptProgress]) -> None:
        self._loop = loop
        self._suspects = asyncio.Lock()

    async def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """See ``specgrove.loop.verifying.Verifier``."""
        async with contextlib.AsyncExitStack() as apart:
            if work.is_suspect:
                await apart.enter_async_context(self._suspects)
            async with contextlib.aclosing(results_of(self._loop, work)) as results:
                async for result in results:
                    if isinstance(result, Verdict):
                        await apart.aclose()  # it does no harm
                    yield result

    def finish_early(self, session_id: str) -> None:
        """See ``specgrove.loop.verifying.Verifier``."""
        self._loop.finish_early(lambda work: work.session_id == session_id)

    async def close(self, session_id: str) -> None:
        """See ``specgrove.loop.verifying.Verifier``."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(session_id))


class InProcessDrafter:
    """The ``Drafter`` protocol."""

    def __init__(self, loop: StepLoop[DraftWork, Draft]) -> None:
        self._loop = loop

    async def draft(self, work: DraftWork) -> Draft:
        """See ``specgrove.loop.drafting.Drafter``."""
        return await asyncio.wrap_future(self._loop.ask(work))

    async def close(self, session_id: str) -> None:
        """See ``specgrove.loop.drafting.Drafter``."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(session_id))
