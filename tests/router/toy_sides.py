"""The toy services in the loop's own process: sessions with mailboxes, as its ``Verifier`` and ``Drafter`` have them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Protocol

from specgrove.loop.works import Draft, DraftWork, PromptProgress, Verdict, VerifyWork


class Verifies(Protocol):
    """A ``ToyLlm``."""

    def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]: ...

    def finish_early(self, session_id: str) -> None: ...

    async def close(self, session_id: str) -> None: ...


class ToyVerifierSession:
    """A task makes the works' answers as fast as it can, whoever waits for them."""

    def __init__(self, session_id: str, llm: Verifies) -> None:
        self._session_id = session_id
        self._llm = llm
        self._arrived: asyncio.Queue[Verdict | PromptProgress | Exception]
        self._working: asyncio.Task[None] | None = None

    async def ask(self, work: VerifyWork) -> None:
        self._arrived = asyncio.Queue()
        self._working = asyncio.create_task(self._work(work, self._arrived))

    async def _work(self, work: VerifyWork, arrived: asyncio.Queue[Verdict | PromptProgress | Exception]) -> None:
        try:
            async with contextlib.aclosing(self._llm.verify(work)) as answers:
                async for answer in answers:
                    arrived.put_nowait(answer)
                    await asyncio.sleep(0)
        except Exception as error:
            arrived.put_nowait(error)

    async def answer(self) -> Verdict | PromptProgress:
        answer = await self._arrived.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish_early(self) -> None:
        self._llm.finish_early(self._session_id)

    async def close(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        await self._llm.close(self._session_id)


class Drafts(Protocol):
    """A ``ToySsm``."""

    def draft(self, work: DraftWork) -> Coroutine[None, None, Draft]: ...

    def is_there(self, ssms: tuple[str, ...]) -> bool: ...

    async def close(self, session_id: str) -> None: ...


class ToyDrafterSession:
    """One work at a time."""

    def __init__(self, session_id: str, ssm: Drafts) -> None:
        self._session_id = session_id
        self._ssm = ssm
        self._drafting: asyncio.Task[Draft]

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        return self._ssm.is_there(ssms)

    def ask(self, work: DraftWork) -> bool:
        self._drafting = asyncio.create_task(self._ssm.draft(work))
        return False

    async def answer(self) -> Draft:
        return await self._drafting

    def grown(self) -> list[Draft]:
        return []

    async def close(self) -> None:
        await self._ssm.close(self._session_id)
