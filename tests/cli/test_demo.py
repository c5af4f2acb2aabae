"""The demo: both ways by turns, and what it says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import rich.console

from specgrove.cli import demo, main
from specgrove.client.output import Completion, Usage
from specgrove.loop.output import FinishReason
from tests.fake_router import FakeRouter

ANSWER = "The quick brown fox"
Router = tuple[FakeRouter, str]


def test_demo_compares_with_incremental_decoding(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def started_suite(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(address=fake_router[1], local_address=fake_router[1])

    monkeypatch.setattr(demo, "started_suite", started_suite)
    assert main(["demo", "why?"]) == 0
    shown = capsys.readouterr().out
    assert ANSWER in shown
    assert "cut off here: the demo's answers have 200 tokens at most" in shown
    assert "speed-up: 1.00x in tokens per second of all 3 answers, 1.00x to 1.00x by question; " in shown
    assert "identical output: yes" in shown
    assert " chat   " in shown
    assert [request.speculation.disabled for request in fake_router[0].requests] == [
        False,
        False,
        True,
        True,
        False,
        True,
        False,
    ]


def usage(num_drafted_nodes: int, num_output_tokens: int = 30) -> Usage:
    return Usage(9, num_output_tokens, 20, (), (), (), num_drafted_nodes, 1.0, 1.0, 0.0, 0.0, 0, 1)


@pytest.mark.parametrize(
    ("speed_ups", "num_drafted_nodes", "said"),
    [
        ([1.2, 1.3, 1.4], 9, "a step of the LLM gave 1.50 tokens instead of 1"),
        ([0.9, 1.1, 1.3], 9, "gave 1.50 tokens instead of 1; what that gains differs"),
        ([0.9, 1.0, 1.0], 9, "but trees are dear on this machine"),
        ([0.9, 1.1, 1.3], 0, "drafting does not pay here"),
    ],
)
def test_the_reason_fits_the_figures(speed_ups: list[float], num_drafted_nodes: int, said: str) -> None:
    assert said in demo._reason(speed_ups, [usage(num_drafted_nodes)] * 3)


def test_the_speed_up_follows_from_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(decode_ms: float) -> Completion:
        return Completion("", (), FinishReason.LENGTH, replace(usage(9, 101), decode_ms=decode_ms))

    pairs = [(answer(1000), answer(2000)), (answer(3000), answer(2000)), (answer(2000), answer(2000))]
    assert demo._compare(rich.console.Console(width=240), pairs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in lines if line.startswith("tokens per second")) == [
        "tokens",
        "per",
        "second",
        "50.0",
        "50.0",
    ]
    assert any(
        line.startswith("speed-up: 1.00x in tokens per second of all 3 answers, 0.67x to 2.00x") for line in lines
    )


def test_short_answers_are_not_judged() -> None:
    assert "too short to measure" in demo._reason([0.9, 1.1, 1.3], [usage(9), usage(9, 15), usage(9)])


def test_a_length_that_no_request_holds_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    for value, message in ((2**32, "at most 4294967295, got 4294967296"), (0, "a whole number, 1 or more, got '0'")):
        with pytest.raises(SystemExit):
            main(["demo", "--max-tokens", str(value)])
        assert f"--max-tokens: must be {message}" in capsys.readouterr().err
