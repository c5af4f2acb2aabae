"""How commands are typed: help, wrong options and wrong values, told before anything starts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from specgrove.cli import main
from specgrove.cli.arguments import parser


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
        ([""], "is empty: give a prompt in quotes, or - to read it from standard input"),
        (["--json-schema", '{"type": "object"}'], "--json-schema: takes a file; this looks like what it should hold"),
    ],
)
def test_wrong_values_are_told_before_anything_starts(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "hi", *flags])
    assert message in capsys.readouterr().err


def test_a_schema_that_is_none_is_told_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": ')
    with pytest.raises(SystemExit):
        main(["generate", "hi", "--json-schema", str(schema)])
    assert f"--json-schema: {schema}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["serve", "--config", "~no user/c.yaml"],
        ["serve", "--ssm", "lookup,store=~no user/x"],
        ["batch", "-i", "~no user/in.jsonl", "-o", "out.jsonl"],
        ["eval", "--prompts", "~no user/p.json"],
        ["spec-infer", "-llm-model", "m", "-ssm-model", "lookup", "-prompt", "~no user/p.json"],
        ["ssm", "train", "--out", "~no user/ssm"],
        ["models", "convert", "~no user/m", "--out", "new"],
        ["quantize", "m", "--bits", "8", "--out", "~no user/q"],
        ["generate", "hi", "--address", "127.0.0.1:1", "--tls-ca", "~no user/ca.pem"],
    ],
    ids=lambda argv: argv[0],
)
def test_the_home_of_a_user_who_is_not_known_is_a_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):  # of the command line's grammar
        main(argv)
    assert "the home folder of this user is not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["serve", "--cache-dir", ""],
        ["generate", "hi", "--address", "127.0.0.1:1", "--tls-ca", ""],
        ["quantize", "m", "--bits", "8", "--out", ""],
    ],
)
def test_a_path_that_is_empty_is_not_the_current_folder(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(argv)
    assert "a path is empty" in capsys.readouterr().err


def test_a_current_folder_that_was_removed_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "removed").mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["models", "info", "./model"]) == 1
    assert capsys.readouterr().err.startswith("specgrove: error: the current folder is not there any more")


def test_what_a_library_says_of_the_environment_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub's reads ``HF_HUB_DOWNLOAD_TIMEOUT`` when it is imported."""

    def fail(_: str) -> None:
        raise ValueError("invalid literal for int() with base 10: 'abc'")

    with monkeypatch.context() as patched:
        patched.setattr("specgrove.cli.importlib.import_module", fail)
        assert main(["key", "bob"]) == 1
    assert capsys.readouterr().err == "specgrove: error: invalid literal for int() with base 10: 'abc'\n"


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
        (["serve", "--router.llm", "a:1"], "--router.llm a:1 (a setting of `python -m router` alone)"),
        (["serve", "--services-tls-ca=ca.pem"], "(a setting of `python -m router` alone)"),
        (["serve", "--ssm.tls-certificate", "x"], "(a setting of `python -m ssm_service` alone)"),
        (["serv"], "; did you mean serve?"),
        (["serve", "--device", "cud"], "; did you mean cuda?"),
        (
            ["spec-infer", "--max-output-length", "-4"],
            "--max-output-length: must be a whole number, 1 or more, got '-4'",
        ),
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
    assert "settings of the LLM service, each also as --llm.NAME:" in shown["serve"]
    assert "settings of the suite:" in shown["serve"]
    for command in ("generate", "chat", "demo"):
        assert "--kv-slots" not in shown[command]
        assert "specgrove serve --help" in shown[command]
    assert parser().parse_args(["generate", "hi", "--kv-slots", "9"]).kv_slots == 9


def test_help_of_doctor_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "its router; without it this machine is looked at, and nothing is started" in shown


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


@pytest.mark.parametrize("argv", [["serve"], ["demo"], ["doctor", "--quick"], ["models", "list"]])
def test_what_runs_models_says_so_where_torch_is_missing(argv: list[str]) -> None:
    program = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from specgrove.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("specgrove: error: this needs torch, which is not installed here")
    assert "Traceback" not in done.stderr
