"""Waiting for what can't happen any more ends at once, with the reason."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest

from specgrove.errors import InternalError, UnavailableError
from tests.waiting import until, wait_until


def told(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """As a stub raises it."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="told")


WENT_WRONG = ValueError("it went wrong")


async def _fail(error: Exception = WENT_WRONG) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("error", [WENT_WRONG, InternalError("a defect"), told(grpc.StatusCode.INTERNAL)])
async def test_a_task_of_the_test_that_fails_ends_the_wait(error: Exception) -> None:
    task = asyncio.create_task(_fail(error))
    with pytest.raises(type(error)):
        await until(lambda: False)
    assert task.done()


@pytest.mark.parametrize("error", [UnavailableError("gone"), told(grpc.StatusCode.RESOURCE_EXHAUSTED)])
async def test_what_a_client_is_told_ends_none(error: Exception) -> None:
    task = asyncio.create_task(_fail(error))
    turns = iter(range(5))
    await until(lambda: next(turns) == 4)
    assert task.exception() is error


async def test_a_task_that_ends_well_or_is_cancelled_does_not() -> None:
    tasks = [asyncio.create_task(until(lambda: True)), asyncio.create_task(asyncio.Event().wait())]
    tasks[1].cancel()
    await until(lambda: all(task.done() for task in tasks))


async def test_what_holds_already_counts_more_than_a_task_that_failed() -> None:
    task = asyncio.create_task(_fail())
    await until(task.done)
    with pytest.raises(ValueError, match="it went wrong"):
        await task


def test_a_machine_that_stood_still_ends_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter([0.0, 10_000.0, *map(float, range(10_001, 20_000))])
    monkeypatch.setattr("tests.waiting.time", SimpleNamespace(monotonic=lambda: next(now_s), sleep=lambda _: None))
    answers = iter([False, False, True])
    wait_until(lambda: next(answers))
    with pytest.raises(TimeoutError):
        wait_until(lambda: False)
    assert 10_290 < next(now_s) < 10_310
