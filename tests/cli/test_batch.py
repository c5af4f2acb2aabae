"""``specgrove batch`` against a made-up HTTP API: what is asked, what is written, and how a second run goes on."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specgrove.batch import http_api
from specgrove.cli import main
from specgrove.client.retries import RetryPolicy
from tests.batch.fake_api import FakeApi, running_api
from tests.certificates import make_certificates
from tests.cli.program import SPECGROVE
from tests.fake_router import FakeRouter
from tests.waiting import LIMIT_S, wait_until


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running_api() as running:
        yield running


def write_requests(path: Path, *wishes: str) -> Path:
    lines = [
        {
            "custom_id": f"request {number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": f"prompt {number}", "user": wish},
        }
        for number, wish in enumerate(wishes)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_any_json_is_sent_and_answered(api: FakeApi, tmp_path: Path) -> None:
    """What no program would write ends no batch: half a character, and numbers that are none."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    odd = r'{"custom_id": "\ud83d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "\ud83d", "n": NaN}}'
    source.write_text(f"{odd}\n{write_requests(tmp_path / 'usual', '').read_text()}")
    for _ in range(2):  # the second run reads what the first one wrote
        assert main(["batch", "-i", str(source), "-o", str(target), "--address", api.address]) == 0
    assert len(api.bodies) == 2
    answers = answers_in(target)
    assert [answer["custom_id"] for answer in answers] == ["\ud83d", "request 0"]
    assert answers[0]["response"]["body"]["choices"] == [{"text": "\ud83d"}]


def test_each_request_has_an_answer_in_its_place(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_requests(tmp_path / "in.jsonl", "", "full once", "wrong", ""), tmp_path / "out.jsonl"
    assert main(["batch", "-i", str(source), "-o", str(target), "--address", f"http://{api.address}/v1"]) == 1
    answers = answers_in(target)
    assert [answer["custom_id"] for answer in answers] == [f"request {number}" for number in range(4)]
    assert [answer["response"]["status_code"] for answer in answers] == [200, 200, 400, 200]
    assert answers[3]["response"]["body"]["choices"] == [{"text": "prompt 3"}]
    assert answers[0]["response"]["request_id"] == "cmpl-/v1/completions"
    said = capsys.readouterr().err
    assert f"3 of 4 requests have outputs in {target}" in said
    assert "1 of 4 requests failed, the first, 'request 2', with: temperature: must be in [0, 100]" in said
    assert len(api.bodies) == 5
    # A second run has nothing left to ask.
    assert main(["batch", "-i", str(source), "-o", str(target), "--address", api.address, "--json", "--quiet"]) == 1
    assert len(api.bodies) == 5
    assert json.loads(capsys.readouterr().out) == {"num_requests": 4, "num_failed": 1, "output": str(target)}


def test_a_run_that_was_stopped_is_gone_on_with_by_the_same_command(api: FakeApi, tmp_path: Path) -> None:
    source, target = write_requests(tmp_path / "in.jsonl", "", "", "block", ""), tmp_path / "out.jsonl"
    command = [*SPECGROVE, "batch", "-i", str(source), "-o", str(target), "--address", api.address]
    process = subprocess.Popen([*command, "--at-once", "2"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: target.exists() and len(answers_in(target)) == 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert said.endswith("stopped: 3 of 4 requests have their answers; the same command goes on\n")
    api.blocked.set()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 0
    assert "going on: 3 of 4 requests have their answers" in ended.stderr
    assert [answer["custom_id"] for answer in answers_in(target)] == [f"request {number}" for number in range(4)]
    assert api.tries == {"": 3, "block": 2}


def test_a_request_whose_connection_is_lost_is_an_error_and_asked_again_by_the_next_run(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_api, "_RETRIES", RetryPolicy(max_num_retries=2, first_delay_s=0.001))
    source, target = write_requests(tmp_path / "in.jsonl", "hang up", ""), tmp_path / "out.jsonl"
    words = ["batch", "-i", str(source), "-o", str(target), "--address", api.address]
    assert main(words) == 1
    failed, good = answers_in(target)
    assert (failed["response"], failed["error"]["code"]) == (None, "no_answer")
    assert failed["error"]["message"].startswith("the connection was lost: ")
    assert good["error"] is None
    assert api.tries == {"hang up": 3, "": 1}
    assert main(words) == 1
    assert api.tries == {"hang up": 6, "": 1}


def test_a_key_goes_with_each_request(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    words = ["-i", str(write_requests(tmp_path / "in.jsonl", "")), "-o", str(tmp_path / "out.jsonl")]
    assert main(["batch", *words, "--address", api.address, "--api-key-file", str(tmp_path / "key")]) == 0
    assert api.keys == ["Bearer secret"]


def test_by_tls_with_a_certificate_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.server.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    assert files.server.certificate is not None
    context.load_cert_chain(files.server.certificate, files.server.private_key)
    words = ["batch", "-i", str(write_requests(tmp_path / "in.jsonl", "")), "-o", str(tmp_path / "out.jsonl")]
    with running_api(context) as api:
        connection = ["--address", f"https://{api.address}", "--tls-ca", str(files.client.ca)]
        own = [
            "--client-certificate",
            str(files.client.certificate),
            "--client-private-key",
            str(files.client.private_key),
        ]
        assert main([*words, *connection, *own]) == 0
        assert main([*words[:-1], str(tmp_path / "other.jsonl"), "--address", api.address, "--tls"]) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_what_is_no_http_api_is_told(
    fake_router: tuple[FakeRouter, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", "-i", str(write_requests(tmp_path / "in.jsonl", "")), "-o", str(tmp_path / "out.jsonl")]
    assert main([*words, "--address", fake_router[1]]) == 1
    assert "does not speak HTTP: give the address of the suite's HTTP API" in capsys.readouterr().err
    assert main([*words, "--address", f"unix:{tmp_path}/nobody"]) == 1
    assert "no HTTP API answers at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "in.jsonl: No such file or directory"),
        (["-o", "/no/such/out.jsonl"], "--output: there is no folder /no/such"),
        (["-o", "{in}"], "--output is the file of the requests: give another"),
        (["--http-address", "127.0.0.1:1"], "--http-address: a suite that is started for a batch serves nobody else"),
        (["--tls-ca", "ca.pem"], "--tls-ca: how to connect to a running suite; give its --address too"),
    ],
)
def test_what_can_not_be_is_told_before_anything_starts(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    if more:
        write_requests(source, "")
    words = ["-i", str(source), "-o", str(tmp_path / "out.jsonl"), *(word.format(**{"in": source}) for word in more)]
    assert main(["batch", *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
