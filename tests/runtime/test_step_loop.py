"""The engine's thread: results, refusals, failures, cancelled waiters and the end, with a made-up engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Iterator, Sequence

import pytest

from specgrove.errors import InvalidRequestError, SpecGroveError, UnavailableError, WorkLostError
from specgrove.runtime import step_loop
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.mailbox import Answer
from tests.runtime.doubler import Doubler
from tests.waiting import LIMIT_S, until


@pytest.fixture
def engine() -> Doubler:
    return Doubler()


@pytest.fixture
def loop(engine: Doubler) -> Iterator[StepLoop[int, int]]:
    running = StepLoop(engine, "doubler")
    yield running
    running.stop()


def hold(loop: StepLoop[int, int]) -> threading.Event:
    """A gate at which the loop's thread stands when this returns: what comes till it opens is taken in by the next turn."""
    is_there, gate = threading.Event(), threading.Event()

    def wait() -> None:
        is_there.set()
        gate.wait()

    loop.call(wait)
    assert is_there.wait(LIMIT_S)
    return gate


def test_results_and_refusals(loop: StepLoop[int, int]) -> None:
    futures = [loop.ask(number) for number in (2, 4, 6)]
    assert [future.result(LIMIT_S) for future in futures] == [4, 8, 12]
    with pytest.raises(InvalidRequestError, match="even"):
        loop.ask(3).result(LIMIT_S)
    assert loop.num_pending_items == 0


def test_a_failed_step_resets_and_the_loop_goes_on(loop: StepLoop[int, int], engine: Doubler) -> None:
    with pytest.raises(WorkLostError, match="ZeroDivisionError: zero") as error:
        loop.ask(0).result(LIMIT_S)
    assert error.value.was_alone
    assert engine.num_resets == 1
    assert loop.ask(2).result(LIMIT_S) == 4


def test_items_that_fail_together_were_not_alone(
    loop: StepLoop[int, int], engine: Doubler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_loop, "_MAX_OPENING_S", LIMIT_S)  # on a slow machine the first one takes longer
    gate = hold(loop)
    # Taken in together, when the gate opens.
    lost = [loop.ask(number, request_id=request_id) for request_id, number in (("a", 4), ("b", 0))]
    gate.set()
    for future in lost:
        error = future.exception(LIMIT_S)
        assert isinstance(error, WorkLostError)
        assert not error.was_alone
    (line,) = [record for record in caplog.records if record.getMessage().startswith("a step failed")]
    assert vars(line)["request_ids"] == ["a", "b"]


class Posted:
    """A mailbox that keeps what it got, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[Answer[str, int]]] = []
        self.has_all = threading.Event()
        self.num_expected = 0

    def post(self, answers: Sequence[Answer[str, int]]) -> None:
        self.calls.append(list(answers))
        if sum(map(len, self.calls)) == self.num_expected:
            self.has_all.set()


def test_the_results_of_a_turn_come_in_one_call_and_refusals_before_them(
    loop: StepLoop[int, int], engine: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_loop, "_MAX_OPENING_S", LIMIT_S)
    gate = hold(loop)
    here, there = Posted(), Posted()
    here.num_expected, there.num_expected = 5, 1
    for mailbox, name, number in ((here, "a", 2), (here, "b", 3), (there, "c", 4), (here, "d", 6), (here, "e", 5)):
        loop.submit(number, mailbox, name)
    loop.submit(8, here, "f")
    engine.may_finish.clear()
    engine.has_begun.clear()
    gate.set()  # all are taken in by one turn
    assert engine.has_begun.wait(LIMIT_S)
    (refused,) = here.calls
    assert [(answer.key, type(answer.result), answer.is_last) for answer in refused] == [
        ("b", InvalidRequestError, True), ("e", InvalidRequestError, True),
    ]  # fmt: skip
    engine.may_finish.set()
    assert here.has_all.wait(LIMIT_S)
    assert there.has_all.wait(LIMIT_S)
    assert here.calls[1:] == [[Answer("a", 4, True), Answer("d", 12, True), Answer("f", 16, True)]]
    assert there.calls == [[Answer("c", 8, True)]]


def test_results_say_whether_they_are_the_last() -> None:
    loop, mailbox = StepLoop(Countdown(), "countdown"), Posted()
    mailbox.num_expected = 3
    loop.submit(2, mailbox, "a")
    assert mailbox.has_all.wait(LIMIT_S)
    assert mailbox.calls == [[Answer("a", 2, False)], [Answer("a", 1, False)], [Answer("a", 0, True)]]
    loop.stop()
    loop.submit(4, mailbox, "late")
    (late,) = mailbox.calls[-1]
    assert (late.key, type(late.result), late.is_last) == ("late", UnavailableError, True)


def test_a_cancelled_waiter_does_not_hurt_the_loop(loop: StepLoop[int, int], engine: Doubler) -> None:
    async def wait_and_leave() -> None:
        engine.may_finish.clear()
        waiter = asyncio.create_task(_wait(loop, 100))
        await until(lambda: loop.num_pending_items == 1)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        engine.may_finish.set()

    asyncio.run(wait_and_leave())
    assert loop.ask(2).result(LIMIT_S) == 4


async def _wait(loop: StepLoop[int, int], number: int) -> int:
    return await asyncio.wrap_future(loop.ask(number))


def test_stopping_answers_what_is_left(engine: Doubler) -> None:
    loop = StepLoop(engine, "doubler")
    engine.may_finish.clear()
    first = loop.ask(2)
    assert engine.has_begun.wait(LIMIT_S)
    behind = loop.ask(4)  # not taken in before the step under way ends, and then there is no other
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    while not loop._is_stopping:
        time.sleep(0.001)
    engine.may_finish.set()
    stopping.join(LIMIT_S)
    assert first.result(LIMIT_S) == 4
    assert isinstance(behind.exception(LIMIT_S), UnavailableError)
    assert isinstance(loop.ask(2).exception(LIMIT_S), UnavailableError)


def test_a_thread_that_dies_says_so(engine: Doubler) -> None:
    loop = StepLoop(engine, "doubler")

    def fail() -> None:
        raise KeyError("bug")

    engine.reset = fail  # type: ignore[method-assign]
    item = loop.ask(0)
    with pytest.raises(RuntimeError, match="the engine's thread failed: KeyError"):
        loop.ended.result(LIMIT_S)
    assert isinstance(item.exception(LIMIT_S), UnavailableError)
    assert isinstance(loop.ask(2).exception(LIMIT_S), UnavailableError)
    loop.stop()


class Countdown(Doubler):
    """Gives an item's number, then the numbers below it down to 0; a little slowly."""

    def finish_early(self, item_ids: Collection[int]) -> None:
        self.pending = [(item_id, 0 if item_id in item_ids else work) for item_id, work in self.pending]

    def step(self) -> list[tuple[int, int | SpecGroveError]]:
        time.sleep(0.002)
        pending, self.pending = self.pending, []
        self.pending = [(item_id, work - 1) for item_id, work in pending if work > 0]
        return list(pending)

    def has_more(self, result: int) -> bool:
        return result > 0


def test_results_of_several_steps_arrive_in_order() -> None:
    loop, mailbox = StepLoop(Countdown(), "countdown"), Posted()
    mailbox.num_expected = 9
    try:
        for number in (4, 0, 2):
            loop.submit(number, mailbox, str(number))
        assert mailbox.has_all.wait(LIMIT_S)
        found = [answer for answers in mailbox.calls for answer in answers]
        assert {key: [answer.result for answer in found if answer.key == key] for key in "402"} == {
            "4": [4, 3, 2, 1, 0], "0": [0], "2": [2, 1, 0],
        }  # fmt: skip
        assert loop.ask(6).result(LIMIT_S) == 0
        assert loop.num_pending_items == 0
    finally:
        loop.stop()


def test_some_of_what_is_under_way_ends_early() -> None:
    loop = StepLoop(Countdown(), "countdown")
    try:
        items = {number: loop.ask(number) for number in (1_000_000, 1_000_002, 1_000_004)}
        loop.finish_early(lambda number: number == 1_000_002)
        assert items.pop(1_000_002).result(LIMIT_S) == 0
        assert not any(item.done() for item in items.values())
        loop.finish_early()
        assert [item.result(LIMIT_S) for item in items.values()] == [0, 0]
    finally:
        loop.stop()


def test_what_takes_long_to_take_in_is_taken_in_over_several_turns(
    loop: StepLoop[int, int], engine: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass lies between two of them, for those that were taken in before."""
    order: list[str] = []
    add, step = engine.add, engine.step

    def recorded_add(item_id: int, work: int) -> None:
        order.append(f"add {work}")
        add(item_id, work)

    def recorded_step() -> list[tuple[int, int | SpecGroveError]]:
        order.append("step")
        return step()

    monkeypatch.setattr(engine, "add", recorded_add)
    monkeypatch.setattr(engine, "step", recorded_step)
    gate = hold(loop)
    monkeypatch.setattr(step_loop, "_MAX_OPENING_S", -1.0)
    futures = [loop.ask(number) for number in (2, 4, 6)]
    gate.set()
    assert [future.result(LIMIT_S) for future in futures] == [4, 8, 12]
    assert order == ["add 2", "step", "add 4", "step", "add 6", "step"]


def test_what_gives_the_engine_work_may_wake_the_thread(
    loop: StepLoop[int, int], engine: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_work, stepped = threading.Event(), threading.Event()

    def step() -> list[tuple[int, int | SpecGroveError]]:
        has_work.clear()
        stepped.set()
        return []

    monkeypatch.setattr(step_loop, "_IDLE_INTERVAL_S", 2 * LIMIT_S)
    monkeypatch.setattr(engine, "has_work", has_work.is_set)
    monkeypatch.setattr(engine, "step", step)
    loop.call(lambda: None).result(LIMIT_S)
    has_work.set()
    loop.wake_up()
    assert stepped.wait(LIMIT_S)
