"""The commands against a made-up router: what they print where, and their exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.cli import generate, main
from specgrove.cli.arguments import parser
from specgrove.output import Chunk, OutputToken
from tests.fake_router import FakeRouter
from tests.waiting import LIMIT_S

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


def test_generate_reads_standard_input(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert main(["generate", "-", "--raw", "--address", fake_router[1]]) == 0
    assert fake_router[0].requests[0].text == "from a pipe"


def test_no_ssm_of_a_running_suite(fake_router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--ssm", "none", "--address", fake_router[1]]) == 0
    assert fake_router[0].requests[-1].speculation.disabled
    assert not fake_router[0].requests[-1].speculation.ssms
    assert main(["generate", "hi", "--ssm", "none", "--ssm", "demo", "--address", fake_router[1]]) == 1
    assert "goes with no other --ssm" in capsys.readouterr().err


def test_a_full_disk_is_told_without_a_number(fake_router: Router) -> None:
    command = f"{sys.executable} -m specgrove.cli generate hi --json --address {fake_router[1]} > /dev/full"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert "specgrove: error: No space left on device" in ended.stderr


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
        ([""], "specgrove: error: the prompt is empty\n"),
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


def test_ctrl_c_ends_the_line_and_tells_what_there_was(fake_router: Router) -> None:
    flags = ["generate", "endless", "--raw", "--address", fake_router[1]]
    for more, note in (([], r"stopped after [1-4] tokens\n"), (["--quiet"], "")):
        command = [sys.executable, "-m", "specgrove.cli", *flags, *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        shown = process.stdout.read(len(ANSWER))
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=LIMIT_S)
        assert (shown + rest, process.returncode) == (ANSWER + "\n", 130)
        assert re.fullmatch(note, told)  # the last chunk is shown before it is counted


@pytest.mark.parametrize(
    ("num_tokens", "note"), [(0, "stopped before the first token\n"), (3, "stopped after 3 tokens\n")]
)
def test_ctrl_c_leaves_no_half_json(
    num_tokens: int, note: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StoppedClient:
        def generate(self, *_: object, **__: object) -> Iterator[Chunk]:
            for token_id in range(num_tokens):
                yield Chunk((OutputToken(token_id, "a"),), "a")
            raise KeyboardInterrupt

    monkeypatch.setattr(generate, "connected", lambda _: contextlib.nullcontext(StoppedClient()))
    assert main(["generate", "hi", "--json"]) == 130
    assert tuple(capsys.readouterr()) == ("", note)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"caf\xe9", "the prompt is not UTF-8 text: byte 3 is 0xe9"), (b"x" * (2 << 20), "more than the 1048576 bytes")],
)
def test_what_is_piped_in_must_be_a_text_that_a_router_takes(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["generate", "-", "--address", fake_router[1]]) == 1
    assert message in capsys.readouterr().err
    assert not fake_router[0].requests


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "-1"], "--temperature: must be in [0, 100], got -1"),
        (["--top-p", "2"], "--top-p: must be in [0, 1], got 2"),
        (["--min-p", "nan"], "--min-p: must be in [0, 1], got nan"),
        (["--max-tokens", "-5"], "--max-tokens: must be a whole number, 0 or more"),
        (["--max-tokens", str(2**32)], "--max-tokens: must be at most 4294967295, got 4294967296"),
        (["--seed", str(2**64)], "--seed: must be at most 18446744073709551615, got 18446744073709551616"),
        (["--top-k", "-5"], "--top-k: must be a whole number, 0 or more, got '-5'; 0 or -1 turns it off"),
        (["--kv-memory", "2XB"], "--kv-memory: '2XB' is no amount of memory"),
        (["--stop", ""], "--stop: must have 1 to 256 characters, has 0"),
        (["--seed", "one"], "--seed: must be a whole number"),
    ],
)
def test_wrong_values_are_told_before_anything_starts(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "hi", *flags])
    assert message in capsys.readouterr().err


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


@pytest.mark.parametrize("flag", ["--tls-ca", "--token-file"])
def test_a_missing_file_is_named(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--address", "127.0.0.1:1", flag, "/no/such.pem"]) == 1
    assert capsys.readouterr().err == "specgrove: error: /no/such.pem: No such file or directory\n"


def test_a_missing_model_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--llm", "/no/such/folder"]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("specgrove: error: ")
    assert "/no/such/folder" in last_line


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "generate text from one prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generate", "hi", "--temprature", "1"], "specgrove generate: error: unrecognized arguments: --temprature"),
        (["generate", "hi", "--temprature=1"], "(did you mean --temperature?)"),
        (["serve", "--max-requests", "3", "--kvslots", "9"], "(did you mean --kv-slots?)"),
        (["serve", "--address", "127.0.0.1:1"], "(did you mean --grpc-address?)"),
        (["serve", "--port=80"], "(did you mean --grpc-address?)"),
        (
            ["models", "info", "x", "--jsn"],
            "specgrove models info: error: unrecognized arguments: --jsn (did you mean --json?)",
        ),
    ],
)
def test_an_unknown_option_is_told_by_its_command(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert said in capsys.readouterr().err


def test_help_lists_what_a_command_is_for_first_and_settings_of_services_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {}
    for command in ("serve", "generate", "chat", "demo"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown[command] = capsys.readouterr().out
    assert shown["generate"].index("sampling:") < shown["generate"].index("a running suite:")
    assert "settings of the LLM service:" in shown["serve"]
    for command in ("generate", "chat", "demo"):
        assert "--kv-slots" not in shown[command]
        assert "specgrove serve --help" in shown[command]
    assert parser().parse_args(["generate", "hi", "--kv-slots", "9"]).kv_slots == 9


@pytest.mark.parametrize("argv", [["fly"], ["generate"], ["serve", "--dtype", "int3"], ["models"]])
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: specgrove" in capsys.readouterr().err


def test_help_and_version_need_no_model_code() -> None:
    program = (
        "import sys\nfrom specgrove.cli import main\n"
        "try:\n    main([sys.argv[1]])\nfinally:\n    assert not {'torch', 'grpc', 'rich'} & set(sys.modules)"
    )
    for flag, text in (("--help", "start the three services"), ("--version", "specgrove 0.")):
        ended = subprocess.run([sys.executable, "-c", program, flag], capture_output=True, text=True, check=True)
        assert text in ended.stdout


@pytest.mark.parametrize(
    ("words", "closed", "said"),
    [
        (["generate", "-"], "<&-", "specgrove: error: standard input is closed: there is no prompt to read\n"),
        (["chat"], "<&-", ""),
        (["generate", "hi"], ">&-", "4 tokens"),
        (["generate", "hi"], "2>&-", ""),
    ],
)
def test_closed_streams_are_no_traceback(words: list[str], closed: str, said: str, fake_router: Router) -> None:
    command = f"{sys.executable} -m specgrove.cli {' '.join(words)} --address {fake_router[1]} {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith(said)


def test_other_encodings_get_a_sign_for_what_they_lack(fake_router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for flags in ([], ["--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
        assert main(["generate", "chinese", "--raw", "--quiet", "--address", fake_router[1], *flags]) == 0
        sys.stdout.flush()
        shown[bool(flags)] = raw.getvalue()
    assert shown[False] == b"??\n"
    assert json.loads(shown[True])["output_text"] == "人工"


def test_a_reader_that_leaves_is_no_traceback(fake_router: Router) -> None:
    command = f"{sys.executable} -m specgrove.cli generate hi --address {fake_router[1]} | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert "Traceback" not in ended.stderr
