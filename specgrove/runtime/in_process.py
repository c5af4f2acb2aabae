"""``Drafter`` and ``Verifier`` over a step loop of this process: the speculation loop without a network.

Used by tests, examples and the Python API; the router's counterparts are in ``router.remote``.
"""

from __future__ import annotations

import asyncio
import contextlib

from specgrove.errors import UnavailableError
from specgrove.request import Draft, DraftWork, Verdict, VerifyWork
from specgrove.runtime.step_loop import StepLoop


class InProcessVerifier:
    """The ``Verifier`` protocol."""

    def __init__(self, loop: StepLoop[VerifyWork, Verdict]) -> None:
        self._loop = loop

    async def verify(self, work: VerifyWork) -> Verdict:
        """See ``specgrove.speculation.Verifier``."""
        return await asyncio.wrap_future(self._loop.submit(work))

    async def close(self, session_id: str) -> None:
        """See ``specgrove.speculation.Verifier``."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(session_id))


class InProcessDrafter:
    """The ``Drafter`` protocol."""

    def __init__(self, loop: StepLoop[DraftWork, Draft]) -> None:
        self._loop = loop

    async def draft(self, work: DraftWork) -> Draft:
        """See ``specgrove.speculation.Drafter``."""
        return await asyncio.wrap_future(self._loop.submit(work))

    async def close(self, session_id: str) -> None:
        """See ``specgrove.speculation.Drafter``."""
        with contextlib.suppress(UnavailableError):
            await asyncio.wrap_future(self._loop.close_session(session_id))
