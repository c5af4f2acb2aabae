"""A verifier that waits until the drafters have read the prompt, so that how much is drafted is no question of speed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from specgrove.loop.request import Draft, DraftWork, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.in_process import InProcessDrafter, InProcessVerifier
from specgrove.runtime.step_loop import StepLoop


class ReadingDrafter(InProcessDrafter):
    """Says when it has read the prompt."""

    def __init__(self, loop: StepLoop) -> None:
        super().__init__(loop)
        self.has_read = asyncio.Event()

    async def draft(self, work: DraftWork) -> Draft:
        draft = await super().draft(work)
        self.has_read.set()
        return draft


class PatientVerifier(InProcessVerifier):
    """Waits until all drafters have read the prompt: how much is drafted is no question of speed then."""

    def __init__(self, loop: StepLoop, drafters: list[ReadingDrafter]) -> None:
        super().__init__(loop)
        self._drafters = drafters

    async def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        for drafter in self._drafters:
            await drafter.has_read.wait()
        async with contextlib.aclosing(super().verify(work)) as results:
            async for result in results:
                yield result
