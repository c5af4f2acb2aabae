"""Waiting for something that has no event, for tests. A limit only ends a test that hangs: none says how fast anything is.

So all of them are ``LIMIT_S``, which is far more than the slowest machine takes. Conditions are to be of the kind that stays true.
Of a turn of a wait seconds count at most: a virtual machine that stands still for minutes ends none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specgrove.errors import InternalError, SpecGroveError

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parent
LIMIT_S = 300.0
_MAX_TURN_S = 10.0


async def until(condition: Callable[[], bool]) -> None:
    """Returns when ``condition`` holds. Raises ``TimeoutError``, and at once what a task of the test fails with meanwhile.

    Refusals and losses that clients are told may be what the test wants: they are raised at the limit only. A fault is none of them.
    """
    tasks = [task for task in asyncio.all_tasks() if _is_of_a_test(task)]
    try:
        for _ in _turns():
            if condition():
                return
            for error in _failures(tasks):
                if _is_a_fault(error):
                    raise error
            await asyncio.sleep(0.005)
    except TimeoutError:
        for error in _failures(tasks):
            raise error from None
        raise


def _is_a_fault(error: BaseException) -> bool:
    if type(error).__module__.startswith("grpc"):
        return error.code().name in ("INTERNAL", "UNKNOWN")  # type: ignore[attr-defined]
    return isinstance(error, InternalError) or not isinstance(error, SpecGroveError)


def _failures(tasks: Sequence[asyncio.Task[Any]]) -> Iterator[BaseException]:
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None:
            yield error


def _is_of_a_test(task: asyncio.Task[Any]) -> bool:
    """Those of the product and of libraries may fail: that is what many tests are about."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).is_relative_to(TESTS)


def wait_until(condition: Callable[[], bool]) -> None:
    """The same for tests that are no coroutines."""
    for _ in _turns():
        if condition():
            return
        time.sleep(0.02)


def _turns() -> Iterator[None]:
    """Without end, but for ``TimeoutError``."""
    waited_s, last_s = 0.0, time.monotonic()
    while waited_s < LIMIT_S:
        yield
        now_s = time.monotonic()
        waited_s += min(now_s - last_s, _MAX_TURN_S)
        last_s = now_s
    raise TimeoutError


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
