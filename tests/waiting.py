"""Waiting for something that has no event, for tests. Limits only end a test that hangs: none says how fast anything is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import pytest


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Returns when ``condition`` holds. Raises ``TimeoutError``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def recorded_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that ``asyncio.wait`` was told to wait at most, each time, from now on; not at all is left out."""
    waits: list[float] = []
    wait = asyncio.wait

    def recording(
        tasks: Collection[asyncio.Task[Any]], *, timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED
    ) -> Coroutine[Any, Any, Any]:
        if timeout:
            waits.append(timeout)
        return wait(tasks, timeout=timeout, return_when=return_when)

    monkeypatch.setattr(asyncio, "wait", recording)
    return waits
