"""Commands that answer files, with the real services over a tiny model, which they start themselves or which are killed meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import specgrove.serve as sg
from specgrove.cli import main
from specgrove.suite.processes import Suite, SuiteConfig
from tests.addresses import free_address
from tests.waiting import wait_until


def test_a_batch_outlives_its_router(tiny_model: Path, tmp_path: Path) -> None:
    body = {"prompt": "one", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body} for number in range(12)
    ]
    source, target, address = tmp_path / "in.jsonl", tmp_path / "out.jsonl", free_address()
    source.write_text("\n".join(map(json.dumps, lines)))
    config = SuiteConfig(tiny_model, ssms=(), num_threads=1, router_arguments=("--http-address", address))
    words = ["batch", "-i", str(source), "-o", str(target), "--address", address, "--at-once", "2", "--quiet"]
    with Suite(config) as suite, concurrent.futures.ThreadPoolExecutor() as executor:
        code = executor.submit(main, words)
        wait_until(lambda: target.exists() and bool(target.read_text()))
        pid = suite.pid("router")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert code.result() == 0
        wait_until(lambda: suite.num_restarts("router") == 1)
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["custom_id"] for answer in answers] == [line["custom_id"] for line in lines]
    assert len({answer["response"]["body"]["choices"][0]["text"] for answer in answers}) == 1


def test_a_batch_starts_a_suite_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"prompt": "one", "max_tokens": 3, "temperature": 0}
    source.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}))
    words = ["--llm", str(tiny_model), "--ssm", "none", "--cache-dir", str(tmp_path / "cache"), "--quiet"]
    assert main(["batch", "-i", str(source), "-o", str(target), *words]) == 0
    (answer,) = [json.loads(line) for line in target.read_text().splitlines()]
    assert answer["response"]["body"]["usage"]["completion_tokens"] == 3


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    """What ``init`` said counts for all that comes later in a process."""
    yield
    sg.init()


def test_flexflows_programs_give_the_same_texts(fresh_settings: None, tiny_model: Path, tmp_path: Path) -> None:
    prompts, outputs = tmp_path / "prompts.json", {}
    prompts.write_text('["one two one two one", "three"]')
    for name, more in (("spec-infer", "-ssm-model lookup --expansion-degree 2"), ("incr-decoding", "")):
        target = tmp_path / f"{name}.json"
        line = (
            f"{name} -llm-model {tiny_model} -prompt {prompts} -output-file {target} --max-length 60 -ll:cpu 1 {more}"
        )
        assert main([*line.split(), "-cache-folder", str(tmp_path / "cache"), "--quiet"]) == 0
        outputs[name] = [(found["output_text"], found["output_tokens"]) for found in json.loads(target.read_text())]
    assert outputs["spec-infer"] == outputs["incr-decoding"]
    assert [len(tokens) for _, tokens in outputs["incr-decoding"]] == [41, 55]
