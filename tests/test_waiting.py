"""Waiting for what can't happen any more ends at once, with the reason."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import until


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("it went wrong")


async def test_a_task_of_the_test_that_fails_ends_the_wait() -> None:
    task = asyncio.create_task(_fail())
    with pytest.raises(ValueError, match="it went wrong"):
        await until(lambda: False)
    assert task.done()


async def test_a_task_that_ends_well_or_is_cancelled_does_not() -> None:
    tasks = [asyncio.create_task(until(lambda: True)), asyncio.create_task(asyncio.Event().wait())]
    tasks[1].cancel()
    await until(lambda: all(task.done() for task in tasks))


async def test_what_holds_already_counts_more_than_a_task_that_failed() -> None:
    task = asyncio.create_task(_fail())
    await until(task.done)
    with pytest.raises(ValueError, match="it went wrong"):
        await task
