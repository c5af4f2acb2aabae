"""The LLM service's measurement of itself: complete ones are kept, and it stands back for requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from llm_service.config import VerifierConfig
from llm_service.paying_rows import PayingRows
from llm_service.servicer import LlmServicer
from llm_service.verifier import VerifierEngine
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.v1 import llm_pb2
from tests.llm.verifying import PROMPT, opening

Loop = StepLoop[VerifyWork, Verdict | PromptProgress]


@pytest.fixture
def loop(engine: VerifierEngine) -> Iterator[Loop]:
    running: Loop = StepLoop(engine, "verifier")
    yield running
    running.stop()


async def warm_up(servicer: LlmServicer) -> llm_pb2.LlmServiceWarmupResponse:
    context: Any = None
    return await servicer.Warmup(llm_pb2.LlmServiceWarmupRequest(), context)


async def test_a_complete_measurement_is_kept(engine: VerifierEngine, loop: Loop) -> None:
    num_free_slots = engine.num_free_slots
    model: Any = None
    servicer = LlmServicer(model, engine, loop, 400)
    first = await warm_up(servicer)
    assert first.is_complete
    assert first.pass_times[0].num_rows == 1
    assert all(time.pass_ms > 0 for time in first.pass_times)
    assert await warm_up(servicer) == first
    assert engine.num_free_slots == num_free_slots


async def test_the_least_of_what_was_measured_is_learnt(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other services come up beside it: what runs then only adds."""
    rows = PayingRows()
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200), paying_rows=rows)
    num_timed: Counter[int] = Counter()

    def timed(runner: ModelRunner, slots: list[int]) -> float:
        num_timed[len(slots)] += 1
        is_held_up = len(slots) > 1 and num_timed[len(slots)] != 2
        return 10.0 * (3.0 if is_held_up else 1.0)

    monkeypatch.setattr("llm_service.verifier.pass_ms", timed)
    model: Any = None
    loop: Loop = StepLoop(engine, "verifier")
    try:
        response = await warm_up(LlmServicer(model, engine, loop, 400))
    finally:
        loop.stop()
    assert response.is_complete
    assert num_timed[4] == 3
    assert rows.row_times.ms(4) == pytest.approx(10.0, rel=0.1)


async def test_while_a_request_is_under_way_nothing_is_measured(
    engine: VerifierEngine, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = None
    servicer = LlmServicer(model, engine, loop, 400)
    with monkeypatch.context() as busy:
        busy.setattr(StepLoop, "num_pending_items", 1)
        response = await warm_up(servicer)
        assert not response.is_complete
        assert not response.pass_times
    assert (await warm_up(servicer)).is_complete


async def test_a_pass_in_flight_is_not_measured_beside(engine: VerifierEngine, loop: Loop) -> None:
    assert loop.call(lambda: engine.time_pass(2)).result() is not None
    assert loop.call(lambda: engine.time_pass(10_000)).result() is None  # more rows than slots
    verdict = loop.ask(opening("s", PROMPT)).result()
    assert isinstance(verdict, Verdict)
