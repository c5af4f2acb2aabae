"""How long a response may wait for its client: the same for each of a stream, with one timer for all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from specgrove.serving.write_limit import WriteLimit
from tests.waiting import LIMIT_S


async def test_a_stream_sets_one_timer_for_all_its_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    call_of_loop, set_timers = loop.call_at, list[asyncio.TimerHandle]()

    def call_at(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        set_timers.append(call_of_loop(*arguments, **options))
        return set_timers[-1]

    monkeypatch.setattr(loop, "call_at", call_at)
    with WriteLimit(LIMIT_S) as limit:
        for _ in range(10):
            await limit.bound(asyncio.sleep(0))
    assert [timer.cancelled() for timer in set_timers] == [True]


async def test_a_response_that_nobody_reads_ends_the_stream() -> None:
    with WriteLimit(0.01) as limit, pytest.raises(TimeoutError):
        await limit.bound(asyncio.sleep(LIMIT_S))
    await asyncio.sleep(0)  # nothing is left of it in the task


async def test_a_later_response_has_the_whole_time_too() -> None:
    loop, started_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    with WriteLimit(0.05) as limit:
        await limit.bound(asyncio.sleep(0))
        await asyncio.sleep(0.03)
        second_s = loop.time()
        with pytest.raises(TimeoutError):
            await limit.bound(asyncio.sleep(LIMIT_S))
    assert loop.time() - second_s > 0.049  # loops count milliseconds
    assert second_s - started_s < LIMIT_S


async def test_between_responses_nothing_ends() -> None:
    with WriteLimit(0.01) as limit:
        await limit.bound(asyncio.sleep(0))
        await asyncio.sleep(0.03)  # the caller makes the next one
        await limit.bound(asyncio.sleep(0))


async def test_whoever_else_cancels_the_task_is_heard() -> None:
    async def write() -> None:
        with WriteLimit(LIMIT_S) as limit:
            await limit.bound(asyncio.sleep(LIMIT_S))

    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_a_write_that_makes_another_error_of_it_leaves_nothing_in_the_task() -> None:
    async def write() -> None:
        try:
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            raise ConnectionResetError from None

    task = asyncio.current_task()
    assert task is not None
    with WriteLimit(0.01) as limit:
        with pytest.raises(ConnectionResetError):
            await limit.bound(write())
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            await limit.bound(asyncio.sleep(LIMIT_S))
        assert task.cancelling() == 0


async def test_a_task_that_went_on_after_it_was_cancelled_is_told_of_the_time_out() -> None:
    async def write() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LIMIT_S)
        with WriteLimit(0.01) as limit:
            await limit.bound(asyncio.sleep(LIMIT_S))

    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(TimeoutError):
        await writing
