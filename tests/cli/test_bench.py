"""``bench`` and ``eval`` against a made-up router: what is asked, and what is printed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import rich.console

from specgrove.cli import bench, main, set_chart
from specgrove.client.output import ModelInfo
from specgrove.measuring.recommendation import recommend
from tests.fake_router import FakeRouter
from tests.measuring.made import result

Router = tuple[FakeRouter, str]
INFO = ModelInfo("smollm2-135m-instruct", "LlamaForCausalLM", 100, 200, "bfloat16", (2,), ("lookup", "demo"), "1")


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([f"question {number}" for number in range(12)]))
    return path


def test_bench_asks_each_prompt_once_with_speculation_and_once_without(
    fake_router: Router, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--address", fake_router[1], "--max-tokens", "4", "--json"]
    assert main(["bench", "--prompts", str(prompt_file), *flags]) == 0
    warm_up, asked = fake_router[0].requests[:4], fake_router[0].requests[4:]
    assert {request.text for request in warm_up} == {"Count to ten."}
    by_prompt: dict[str, list[tuple[bool, tuple[str, ...]]]] = {}
    for request in asked:
        content = request.chat.messages[0].content
        by_prompt.setdefault(content, []).append((request.speculation.disabled, tuple(request.speculation.ssms)))
        assert (request.max_tokens, request.sampling.seed) == (4, 1)
    assert len(by_prompt) == 12
    assert all(sorted(disabled for disabled, _ in ways) == [False, True] for ways in by_prompt.values())
    used = {ssms for ways in by_prompt.values() for disabled, ssms in ways if not disabled}
    assert used == {("lookup", "demo"), ("lookup",), ("demo",)}
    printed = json.loads(capsys.readouterr().out)
    assert [way["ssms"] for way in printed["ways"]] == [["lookup", "demo"], ["lookup"], ["demo"]]
    assert [way["num_pairs"] for way in printed["ways"]] == [4, 4, 4]
    assert all(way["is_identical"] for way in printed["ways"])
    assert printed["recommendation"]["ssms"] == []  # the made-up router drafts nothing


def test_bench_prints_a_table_and_ends_with_what_to_do(
    fake_router: Router, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--prompts", str(prompt_file), "--address", fake_router[1], "--ssm", "demo"]) == 0
    shown = capsys.readouterr()
    assert "no drafts" in shown.out
    assert "identical output: yes" in shown.out
    assert shown.out.splitlines()[-1].startswith("Do without speculation here (--ssm none)")
    assert "round 1 of 8: demo" in shown.err
    assert "12 prompts: 8 rounds of 1, as many as --rounds allows; the last 4 are left out" in shown.err


def test_the_table_fits_80_characters() -> None:
    results = [result(*ssms, speed_up=(0.83, 1.32, 1.63)) for ssms in (("lookup", "demo"), ("lookup",), ("demo",))]
    results = [replace(found, acceptance=(1.0, 1.0, 1.0)) for found in results]
    text = io.StringIO()
    bench._print(rich.console.Console(file=text, width=80), INFO, results, recommend(results))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("lookup + demo  ")


def test_eval_reports_each_file(fake_router: Router, prompt_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = prompt_file.with_name("other.json")
    other.write_text('["one"]')
    flags = ["--num-prompts", "3", "--at-once", "2", "--incremental", "--raw", "--address", fake_router[1]]
    assert main(["eval", "--prompts", str(prompt_file), str(other), *flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(found["name"], found["num_prompts"]) for found in printed["sets"]] == [("mine", 3), ("other", 1)]
    assert [found["decoded"]["num_tokens"] for found in printed["sets"]] == [12, 4]
    assert [round(found["decoded"]["tokens_per_step"], 2) for found in printed["sets"]] == [1.33, 1.33]
    assert printed["sets"][0]["incremental"]["num_steps"] == 9
    asked = [(request.text, request.speculation.disabled) for request in fake_router[0].requests]
    assert sorted(asked[:6]) == [(f"question {n}", is_off) for n in range(3) for is_off in (False, True)]
    assert main(["eval", "--prompts", str(other), "--address", fake_router[1]]) == 0
    shown = capsys.readouterr().out
    assert "other" in shown
    assert "1.33" in shown


@pytest.mark.parametrize("command", ["bench", "eval"])
def test_prompts_that_the_model_has_no_room_for_are_left_out_and_told(
    command: str, fake_router: Router, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The made-up router has a context of 200 tokens, one for each character.
    prompt_file.write_text(json.dumps(["x" * 197, "x" * 196, "y", "z"]))
    flags = ["--raw", "--max-tokens", "4", "--address", fake_router[1]]
    assert main([command, "--prompts", str(prompt_file), *flags]) == 0
    assert "1 of 4 prompts are too long for the model, with their outputs, and left out" in capsys.readouterr().err
    assert "x" * 197 not in [request.text for request in fake_router[0].requests]
    assert "x" * 196 in [request.text for request in fake_router[0].requests]
    prompt_file.write_text(json.dumps(["x" * 197] * 4))
    assert main([command, "--prompts", str(prompt_file), *flags]) == 1
    assert "--max-tokens: none of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("", "is empty, it should hold JSON"),
        ("[1,", "is not JSON"),
        ('{"a": 1}\n{"a": 2}\n', 'holds JSON lines; it should hold one JSON list of texts (["...", "..."])'),
        ('{"a": 1}', 'holds an object, it should hold a list of texts (["...", "..."])'),
        ('["a", 3]', "element 2 of the list is a number, it should hold a list of texts"),
        ("[]", "holds an empty list; give it a prompt at least"),
        ('["a", ""]', "element 2 of the list is an empty text"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "eval"])
def test_a_file_that_is_no_list_of_texts_is_told_before_anything_starts(
    command: str, content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.json"
    if content is not None:
        path.write_text(content)
    assert main([command, "--prompts", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"specgrove: error: {path}")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--at-once", "13"], "--at-once 13: there are only 12 different prompts"),
        (["bench", "--ssm", "none"], "--ssm none: there is nothing to compare plain decoding with"),
        (["eval", "--chart", "chart.bmp"], "--chart: the name must end with .png, .svg, .pdf, got chart.bmp"),
        (["eval", "--chart", "/no/such/chart.png"], "--chart: there is no folder /no/such"),
    ],
)
def test_what_can_not_be_measured_is_told_before_anything_starts(
    words: list[str], message: str, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--prompts", str(prompt_file)]) == 1
    assert capsys.readouterr().err == f"specgrove: error: {message}\n"


def test_a_chart_without_matplotlib_says_what_is_missing(
    prompt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_chart.importlib.util, "find_spec", lambda name: None)
    assert main(["eval", "--prompts", str(prompt_file), "--chart", str(tmp_path / "chart.png")]) == 1
    assert "--chart needs matplotlib, which is not installed: pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_chart_is_drawn(
    ending: str, fake_router: Router, prompt_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / f"chart.{ending}"
    flags = ["--num-prompts", "2", "--incremental", "--address", fake_router[1], "--chart", str(chart)]
    assert main(["eval", "--prompts", str(prompt_file), *flags]) == 0
    assert chart.stat().st_size > 1000
    assert f"chart in {chart}" in capsys.readouterr().err
