"""A batch, from the requests that have no answer yet to the last answer. Called by ``specgrove batch``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from specgrove.batch.answers_file import AnswersFile, BatchAnswer
from specgrove.batch.http_api import HttpApi, HttpPlace
from specgrove.batch.requests_file import BatchRequest


async def run_batch(
    requests: Sequence[BatchRequest],
    answers: AnswersFile,
    place: HttpPlace,
    num_at_once: int,
    on_answer: Callable[[BatchAnswer], None],
) -> None:
    """Adds an answer of each, ``num_at_once`` under way at a time. Raises ``UnavailableError`` where no HTTP API answers, and ``OSError``.

    Where it ends early, requests under way are called off.
    """
    waiting = iter(requests)

    async def work(api: HttpApi) -> None:
        for request in waiting:
            answer = await api.answer(request)
            answers.add(answer)
            on_answer(answer)

    async with HttpApi(place, num_at_once) as api:
        await api.check()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(num_at_once, len(requests))):
                    group.create_task(work(api))
        except* OSError as failures:  # a full disk; each of the others is told to stop
            raise failures.exceptions[0] from None
