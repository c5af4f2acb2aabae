"""Waiting for something that has no event, for tests. A limit only ends a test that hangs: none says how fast anything is.

So all of them are ``LIMIT_S``, which is far more than the slowest machine takes. Conditions are to be of the kind that stays true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parent
LIMIT_S = 300.0


async def until(condition: Callable[[], bool]) -> None:
    """Returns when ``condition`` holds. Raises ``TimeoutError``, and at once what a task of the test fails with meanwhile."""
    tasks = [task for task in asyncio.all_tasks() if _is_of_a_test(task)]
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
            await asyncio.sleep(0.005)


def _is_of_a_test(task: asyncio.Task[Any]) -> bool:
    """Those of the product and of libraries may fail: that is what many tests are about."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).is_relative_to(TESTS)


def wait_until(condition: Callable[[], bool]) -> None:
    """The same for tests that are no coroutines."""
    until_s = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError
        time.sleep(0.02)


def recorded_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that ``asyncio.wait`` was told to wait at most, each time, from now on; not at all is left out."""
    waits: list[float] = []
    wait = asyncio.wait

    def recording(tasks: Collection[asyncio.Task[Any]], **options: Any) -> Coroutine[Any, Any, Any]:
        # All options are passed on: grpc waits with this as well, and where that failed, its core wrote into memory of others.
        if options.get("timeout"):
            waits.append(options["timeout"])
        return wait(tasks, **options)

    monkeypatch.setattr(asyncio, "wait", recording)
    return waits
