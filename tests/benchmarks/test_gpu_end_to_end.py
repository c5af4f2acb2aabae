"""The GPU benchmark's parts that run whole requests: their ratio, and speculative outputs beside incremental ones."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import end_to_end, equality
from benchmarks.gpu.card import Card
from benchmarks.gpu.trace import TRACE, Trace
from specgrove.loop import planning
from specgrove.loop.request import SpeculationOptions
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.step_loop import FatalEngineError
from tests.benchmarks.cards import fake_card


def test_end_to_ends_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = replace(end_to_end.Setup.of(fake_card(is_full=False)), num_rounds=3)
    mean = Trace.read(TRACE).tokens_per_step

    async def run(address: str, prompts: object, max_tokens: int, speculation: SpeculationOptions) -> end_to_end.Run:
        rate, num_steps = (100.0, 1000) if speculation.disabled else (190.0, round(1000 / per_step * mean))
        return end_to_end.Run(rate, round(1000 * mean), num_steps, 5.0, 1.0, 4.0)

    monkeypatch.setattr(end_to_end, "run", run)
    per_step = mean
    row = end_to_end._measured(1, "what", "", setup, card_is_full=True)
    assert (row.value, row.verdict) == (1.9, "met")
    per_step = mean / 2
    row = end_to_end._measured(1, "what", "", setup, card_is_full=True)
    assert row.verdict == "skipped"
    assert "too shallow for the trace" in row.note


@pytest.mark.slow
def test_equality(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_LONG_PROMPT_LEN", 0)  # drafters read prompts at once
    greedy, sampled = equality.rows(card)
    assert (greedy.value, sampled.value) == (1.0, 1.0)
    assert "; 0% of the tokens" not in greedy.note

    async def other(*arguments: object) -> list[tuple[list[int], int]]:
        return [([token_id], 1) for token_id in (next(numbers), 5, 6)]

    numbers = iter(range(4))
    monkeypatch.setattr(equality, "_outputs", other)
    different = list(equality.rows(card))
    assert [row.value for row in different] == [2 / 3, 2 / 3]
    assert "different: prompt 0 at token 0: 1 speculative, 0 incremental" in different[0].note
    assert not program.is_right(different)
    assert program.is_right([greedy, sampled])


def test_equality_without_drafts_shows_nothing(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    async def undrafted(*arguments: object) -> list[tuple[list[int], int]]:
        return [([1, 2], 0)] * 3

    monkeypatch.setattr(equality, "_outputs", undrafted)
    rows = list(equality.rows(card))
    assert [row.verdict for row in rows] == ["skipped", "skipped"]
    assert all("no token was drafted" in row.note for row in rows)


def test_equality_tells_what_ended_an_engine(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphRunner, "start", Mock(side_effect=FatalEngineError("cuda:0: the card is lost")))
    assert ["FatalEngineError: cuda:0: the card is lost" in row.note for row in equality.rows(card)] == [True, True]


@pytest.mark.slow
def test_end_to_end(card: Card) -> None:
    found = list(end_to_end.rows(card))
    assert [row.value is not None and row.value > 0 for row in found] == [True, True], found
    assert all("REPLAYED FROM A TRACE" in row.note for row in found)
    assert str(found[0].target) == ">= 1.8"


def test_end_to_end_without_the_packages(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "_PACKAGES", ("json", "no_such_package"))
    found = list(end_to_end.rows(card))
    assert [row.verdict for row in found] == ["skipped", "skipped"]
    assert all("no_such_package" in row.note for row in found)
