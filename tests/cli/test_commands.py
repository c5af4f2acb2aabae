"""The commands against a made-up router: what they print where, and their exit codes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from specgrove.cli import main
from specgrove.v1 import token_tree_pb2
from tests.fake_router import FakeRouter

ANSWER = "The quick brown fox"
Router = tuple[FakeRouter, str]


def test_generate_streams_the_text_and_nothing_else_to_stdout(
    fake_router: Router, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "hi", "--address", fake_router[1], "--temperature", "0.5", "--stop", "\n\n"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ANSWER + "\n"
    assert "4 tokens (the limit), 100.0 tokens/s" in captured.err
    request = fake_router[0].requests[0]
    assert [(message.role, message.content) for message in request.chat.messages] == [("user", "hi")]
    assert (request.sampling.temperature, list(request.stop)) == (0.5, ["\n\n"])
    assert main(["generate", "hi", "--address", fake_router[1], "--temperature", "0.5"]) == 0
    assert fake_router[0].requests[1].sampling.seed != request.sampling.seed


def test_generate_json_tells_how_probable_the_prompt_is(
    fake_router: Router, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "hi", "--address", fake_router[1], "--json", "--prompt-log-probs", "0"]) == 0
    own = {"log_prob": -2.0, "rank": 7, "top": []}
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == [
        {"token_id": 104, "text": "h", "log_probs": None},
        {"token_id": 105, "text": "i", "log_probs": own},
    ]
    assert main(["generate", "hi", "--address", fake_router[1], "--prompt-log-probs", "0"]) == 1
    assert "--prompt-log-probs needs --json" in capsys.readouterr().err


def test_what_is_not_typed_is_left_to_the_router(fake_router: Router) -> None:
    """It may be as the model recommends."""
    for flags in ([], ["--recommended-sampling"]):
        assert main(["generate", "hi", "--address", fake_router[1], *flags]) == 0
    plain, recommended = fake_router[0].requests
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        assert not plain.sampling.HasField(name)
        assert not recommended.sampling.HasField(name)
    assert (plain.recommended_sampling, recommended.recommended_sampling) == (False, True)


def test_generate_json_is_one_line(fake_router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "--raw", "--no-speculation", "--seed", "3", "--ssm", "demo"]
    assert main(["generate", "hi", "--address", fake_router[1], *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    assert result["output_text"] == ANSWER
    assert result["output_tokens"] == [0, 1, 1, 2]
    assert result["finish_reason"] == "length"
    assert result["stop_reason"] is None
    assert result["statistics"]["num_verify_steps"] == 3
    assert result["statistics"]["tokens_per_s"] == 100
    assert result["statistics"]["mean_acceptance_len"] == 1.333
    request = fake_router[0].requests[0]
    assert request.text == "hi"
    assert request.sampling.seed == 3
    assert request.speculation.disabled
    assert list(request.speculation.ssms) == ["demo"]


def test_generate_says_what_the_output_must_look_like(fake_router: Router, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "object"}')
    grammar.write_text('start: "a"')
    for flags in (["--json-schema", str(schema)], ["--grammar", str(grammar)], ["--regex", "a+"], ["--json-object"]):
        assert main(["generate", "hi", "--address", fake_router[1], *flags]) == 0
    assert main(["generate", "hi", "--address", fake_router[1], "--choice", "yes", "--choice", "no"]) == 0
    sent = [request.sampling.structured_output for request in fake_router[0].requests]
    assert sent == [
        token_tree_pb2.StructuredOutput(json_schema='{"type": "object"}'),
        token_tree_pb2.StructuredOutput(grammar='start: "a"'),
        token_tree_pb2.StructuredOutput(regex="a+"),
        token_tree_pb2.StructuredOutput(json_object=True),
        token_tree_pb2.StructuredOutput(choice={"texts": ["yes", "no"]}),
    ]


def test_mistakes_in_it_are_told_before_anything_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"type": "objekt"}')
    for flags, said in (
        (["--regex", "(a"], "argument --regex: at 1(8): invalid regex"),
        (
            ["--json-schema", str(tmp_path / "no.json")],
            f"argument --json-schema: {tmp_path / 'no.json'}: Invalid type: objekt",
        ),
        (["--grammar", "/no/such.lark"], "argument --grammar: /no/such.lark: No such file or directory"),
        (["--json-object", "--regex", "a"], "argument --regex: not allowed with argument --json-object"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["generate", "hi", *flags])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_no_ssm_of_a_running_suite(fake_router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--ssm", "none", "--address", fake_router[1]]) == 0
    assert fake_router[0].requests[-1].speculation.disabled
    assert not fake_router[0].requests[-1].speculation.ssms
    assert main(["generate", "hi", "--ssm", "none", "--ssm", "demo", "--address", fake_router[1]]) == 1
    assert "goes with no other --ssm" in capsys.readouterr().err


def test_a_file_is_not_taken_for_a_prompt(
    fake_router: Router, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my prompt.txt").write_text("hi")
    assert main(["generate", f"{tmp_path}/my prompt.txt", "--address", fake_router[1]]) != 0
    assert (
        f"is a file; to send what it holds: specgrove generate - < '{tmp_path}/my prompt.txt'"
        in capsys.readouterr().err
    )


def test_a_prompt_may_be_longer_than_a_files_name(fake_router: Router) -> None:
    assert main(["generate", "why? " * 1000, "--raw", "--address", fake_router[1]]) == 0
    assert fake_router[0].requests[0].text == "why? " * 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["invalid", "--raw"], "specgrove: error: --top-p: must be in (0, 1]\n"),
        (["full", "--raw"], "specgrove: error: the queue is full\n"),
        (["hi", "--llm", "other"], "specgrove: error: --llm: how to start a suite; the one at --address runs already"),
        (
            ["hi", "--device", "cuda", "--offload", "--max-requests", "3"],
            "specgrove: error: --max-requests, --offload, --device: how to start a suite; ",
        ),
        (["Why", "is", "it?"], 'specgrove: error: put the prompt in quotes: specgrove generate "Why is it?"\n'),
        (["x" * (1 << 20)], "specgrove: error: the prompt has 1048576 bytes; a request may have 1048576\n"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    fake_router: Router, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["generate", *flags, "--address", fake_router[1]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_where_no_router_answers_it_is_said_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert main(["generate", "hi", "--address", address]) == 1
    said = capsys.readouterr().err
    assert (
        f"specgrove: error: no router answers at {address}: start one with `specgrove serve`; if it speaks TLS" in said
    )
    assert "(Connection refused)" in said  # and not what gRPC did before


def test_how_to_connect_is_nothing_for_a_suite_that_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--tls-ca", "ca.pem"]) == 1
    assert "--tls-ca: how to connect to a running suite; give its --address too" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--tls-ca", "--api-key-file"])
def test_a_missing_file_is_named(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--address", "127.0.0.1:1", flag, "/no/such.pem"]) == 1
    assert capsys.readouterr().err == "specgrove: error: /no/such.pem: No such file or directory\n"


def test_a_missing_model_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--llm", "/no/such/folder"]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("specgrove: error: ")
    assert "/no/such/folder" in last_line
