"""A made-up engine for tests of ``StepLoop``, and a clock that they turn."""

from __future__ import annotations

import threading
from collections.abc import Collection

from specgrove.errors import InvalidRequestError, SpecGroveError
from tests.waiting import LIMIT_S


class Doubler:
    """Doubles numbers, refuses odd ones, fails at 0, and keeps 100 until it is told."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, int]] = []
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.has_begun = threading.Event()
        self.num_resets = 0

    def add(self, item_id: int, work: int) -> None:
        if work % 2:
            raise InvalidRequestError.of("work", "must be even")
        self.pending.append((item_id, work))

    def has_work(self) -> bool:
        return bool(self.pending)

    def step(self) -> list[tuple[int, int | SpecGroveError]]:
        self.has_begun.set()
        self.may_finish.wait(LIMIT_S)
        pending, self.pending = self.pending, []
        if any(work == 0 for _, work in pending):
            raise ZeroDivisionError("zero")
        return [(item_id, work * 2) for item_id, work in pending]

    def finish_early(self, item_ids: Collection[int]) -> None: ...

    def has_more(self, result: int) -> bool:
        return False

    def close_session(self, session_id: str) -> None: ...

    def expire_sessions(self) -> None: ...

    def reset(self) -> None:
        self.num_resets += 1
        self.pending = []


class Clock:
    """A clock that tests turn."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
