"""A step loop of this process for coroutines, and as ``Drafter`` and ``Verifier``: the speculation loop without a network.

The services' servicers use ``results_of``; tests and benchmarks the other two, whose counterparts are in
``router.remote_verifier``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from specgrove.errors import UnavailableError
from specgrove.loop.request import Draft, DraftWork, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.step_loop import StepLoop

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


async def results_of(loop: StepLoop[WorkT, ResultT], work: WorkT) -> AsyncGenerator[ResultT, None]:
    """All results of one item, each as soon as it is there. Raises the ``SpecGroveError`` that the engine gave."""
    event_loop = asyncio.get_running_loop()
    # None where the future has what is left: results of the loop's thread arrive here in its order.
    arrived: asyncio.Queue[ResultT | None] = asyncio.Queue()

    def post(result: ResultT | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            event_loop.call_soon_threadsafe(arrived.put_nowait, result)

    future = loop.submit(work, on_partial=post)
    future.add_done_callback(lambda _: post(None))
    try:
        while (partial := await arrived.get()) is not None:
            yield partial
        yield future.result()
    finally:
        if not future.done():
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
        return await asyncio.wrap_future(self._loop.submit(work))

    async def close(self, session_id: str) -> None:
        """See ``specgrove.loop.drafting.Drafter``."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(session_id))
