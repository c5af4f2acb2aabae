"""Commands that measure, and that answer files, with a suite that runs: the real services and the demo models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specgrove.cli import main
from specgrove.client import Client
from specgrove.suite.processes import Suite

QUESTIONS = ["Name three primes.", "Say: one two one two one two one two", "Count: 1 2 3 4", "What is tea?"]


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(QUESTIONS))
    return path


@pytest.mark.slow  # tests/cli has both with a made-up router
def test_bench_compares_the_ssms_of_a_running_suite(
    suite: Suite, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--max-tokens", "12", "--ssm", "lookup", "--ssm", "beam", "--json", "--address", suite.address]
    assert main(["bench", "--prompts", str(prompt_file), *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [way["ssms"] for way in printed["ways"]] == [["lookup", "beam"], ["lookup"], ["beam"]]
    assert all(way["is_identical"] and way["num_pairs"] == 1 for way in printed["ways"])
    drafting = printed["ways"][2]
    assert drafting["drafted_share"] > 0
    assert all(0 <= share <= 1 for share in drafting["acceptance"])
    assert printed["recommendation"]["ssms"] is None  # from one measurement of each way nothing is told


@pytest.mark.slow
def test_eval_counts_the_tokens_of_a_running_suite(
    suite: Suite, client: Client, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [client.complete([("user", question)], max_tokens=12).usage for question in QUESTIONS]
    flags = ["--max-tokens", "12", "--incremental", "--at-once", "2", "--json", "--address", suite.address]
    assert main(["eval", "--prompts", str(prompt_file), *flags]) == 0
    found = json.loads(capsys.readouterr().out)["sets"][0]
    assert (found["name"], found["num_prompts"]) == ("questions", 4)
    num_tokens = sum(usage.num_output_tokens for usage in expected)
    assert found["decoded"]["num_tokens"] == found["incremental"]["num_tokens"] == num_tokens
    assert found["incremental"]["num_steps"] == num_tokens > found["decoded"]["num_steps"]


def test_a_batch_has_the_answers_of_the_clients(
    suite: Suite, client: Client, http_address: str, tmp_path: Path
) -> None:
    expected = [client.complete([("user", question)], max_tokens=12).text for question in QUESTIONS]
    lines = [
        {
            "custom_id": question,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [{"role": "user", "content": question}],
                "max_completion_tokens": 12,
                "temperature": 0,
            },
        }
        for question in QUESTIONS
    ]
    wrong = {"custom_id": "wrong", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "top_p": 2}}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, [*lines, wrong])))
    assert main(["batch", "-i", str(source), "-o", str(target), "--address", http_address]) == 1
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["custom_id"] for answer in answers] == [*QUESTIONS, "wrong"]
    bodies = [answer["response"]["body"] for answer in answers]
    assert [body["choices"][0]["message"]["content"] for body in bodies[:4]] == expected
    assert answers[4]["response"]["status_code"] == 400
    assert bodies[4]["error"]["param"] == "top_p"
