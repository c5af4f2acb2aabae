"""A step that hangs ends the loop; how long the engine was busy."""

from __future__ import annotations

import threading

import pytest

from specgrove.errors import SpecGroveError, UnavailableError
from specgrove.runtime import step_loop
from specgrove.runtime.step_loop import HungEngineError, StepLoop
from specgrove.runtime.watchdog import Watchdog
from tests.runtime.doubler import Clock, Doubler
from tests.waiting import LIMIT_S


class Hanging(Doubler):
    """Its step never ends, until the test does."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def step(self) -> list[tuple[int, int | SpecGroveError]]:
        self.has_begun.set()
        self.may_end.wait(LIMIT_S)
        return super().step()


def look(watchdog: Watchdog, seconds: int) -> None:
    for _ in range(seconds):
        watchdog.look()


def test_a_step_that_hangs_ends_the_loop() -> None:
    engine = Hanging()
    loop = StepLoop(engine, "hanging")
    watchdog = loop._watchdog
    watchdog._timeout_s = 120.0  # without its thread: the test looks itself
    first = loop.ask(2)
    assert engine.has_begun.wait(LIMIT_S)
    look(watchdog, 119)
    assert not loop.ended.done()
    look(watchdog, 3)
    with pytest.raises(HungEngineError, match="a step has not ended in 120 s"):
        loop.ended.result(LIMIT_S)
    assert isinstance(loop.ask(4).exception(LIMIT_S), UnavailableError)
    assert not loop.stop(0)
    engine.may_end.set()  # should it come back after all, nothing breaks
    assert first.result(LIMIT_S) == 4
    assert loop.stop(LIMIT_S)


def test_many_short_steps_are_no_hang() -> None:
    class Slow(Doubler):
        def step(self) -> list[tuple[int, int | SpecGroveError]]:
            look(loop._watchdog, 100)
            return super().step()

    loop = StepLoop(Slow(), "slow")
    loop._watchdog._timeout_s = 120.0
    assert [loop.ask(2).result(LIMIT_S) for _ in range(5)] == [4] * 5
    look(loop._watchdog, 1000)  # idle
    assert not loop.ended.done()
    loop.stop()


def test_time_is_busy_while_the_engine_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_loop, "_IDLE_INTERVAL_S", LIMIT_S)  # it looks for nothing but work
    clock = Clock()

    class Slow(Doubler):
        def step(self) -> list[tuple[int, int | SpecGroveError]]:
            clock.now_s += 3.0
            return super().step()

    loop = StepLoop(Slow(), "slow", clock_s=clock)
    clock.now_s += 100.0
    for number in (2, 4, 0):  # a step that fails has taken its time, too
        loop.ask(number).exception(LIMIT_S)
    loop.stop()
    assert loop.busy_s == 9.0


def test_the_watchdog_watches_by_itself() -> None:
    engine = Hanging()
    loop = StepLoop(engine, "hanging", pass_timeout_s=0.01)
    loop.ask(2)
    with pytest.raises(HungEngineError):
        loop.ended.result(LIMIT_S)
    engine.may_end.set()
    loop.stop()
