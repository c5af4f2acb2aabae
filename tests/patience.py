"""A verifier that waits until the drafters have read the prompt, so that how much is drafted is no question of speed."""

from __future__ import annotations

import asyncio

from specgrove.loop.works import Draft, VerifyWork
from specgrove.runtime.in_process import (
    InProcessDrafter,
    InProcessDrafterSession,
    InProcessVerifier,
    InProcessVerifierSession,
)
from specgrove.runtime.step_loop import StepLoop


class ReadingDrafter(InProcessDrafter):
    """Says when it has read the prompt."""

    def __init__(self, loop: StepLoop) -> None:
        super().__init__(loop)
        self.has_read = asyncio.Event()

    def session(self, session_id: str) -> InProcessDrafterSession:
        return _ReadingSession(session_id, self)


class _ReadingSession(InProcessDrafterSession):
    def __init__(self, session_id: str, drafter: ReadingDrafter) -> None:
        super().__init__(session_id, drafter._loop)
        self._drafter = drafter

    async def answer(self) -> Draft:
        draft = await super().answer()
        self._drafter.has_read.set()
        return draft


class PatientVerifier(InProcessVerifier):
    """Waits until all drafters have read the prompt: how much is drafted is no question of speed then."""

    def __init__(self, loop: StepLoop, drafters: list[ReadingDrafter]) -> None:
        super().__init__(loop)
        self.drafters = drafters

    def session(self, session_id: str) -> InProcessVerifierSession:
        return _PatientSession(session_id, self)


class _PatientSession(InProcessVerifierSession):
    def __init__(self, session_id: str, verifier: PatientVerifier) -> None:
        super().__init__(session_id, verifier._loop, verifier._suspects)
        self._verifier = verifier

    async def ask(self, work: VerifyWork) -> None:
        for drafter in self._verifier.drafters:
            await drafter.has_read.wait()
        await super().ask(work)
