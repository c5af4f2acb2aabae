"""Texts under way: long ones one at a time, beside the event loop; short ones at once."""

from __future__ import annotations

import asyncio
import threading

from router.text_work import TextWork
from tests.waiting import LIMIT_S, until

LONG, SHORT = 4096, 4095


class Work:
    """Counts the threads in it, and keeps them until it is told."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.num_done = 0
        self._may_end = threading.Event()

    def __call__(self) -> int:
        self.threads.append(threading.get_ident())
        assert self._may_end.wait(LIMIT_S)
        self.num_done += 1
        return self.num_done

    def end(self) -> None:
        self._may_end.set()


async def test_one_long_text_is_worked_on_at_a_time_and_short_ones_wait_for_none() -> None:
    texts, work = TextWork(), Work()
    calls = [asyncio.create_task(texts.run(LONG, work)) for _ in range(5)]
    await until(lambda: len(work.threads) == 1)
    assert await texts.run(SHORT, threading.get_ident) == threading.get_ident()  # no thread of its own
    await asyncio.sleep(0)
    assert len(work.threads) == 1
    work.end()
    assert sorted(await asyncio.gather(*calls)) == [1, 2, 3, 4, 5]
    assert threading.get_ident() not in work.threads


async def test_a_text_that_fails_gives_its_place_back() -> None:
    texts, work = TextWork(), Work()

    def fail() -> int:
        raise ValueError("no text")

    failed = await asyncio.gather(*(texts.run(LONG, fail) for _ in range(4)), return_exceptions=True)
    assert [str(error) for error in failed] == ["no text"] * 4
    work.end()
    assert await texts.run(LONG, work) == 1
