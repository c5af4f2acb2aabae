"""``python -m llm_service`` with folders it can't serve: one clear line and exit code 1."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_service.arguments import parse_arguments
from tests.waiting import LIMIT_S


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_service", "--address", "127.0.0.1:0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_help_explains_every_flag() -> None:
    result = start("--help")
    assert result.returncode == 0
    assert "--kv-slots" in result.stdout


def missing(folder: Path) -> str:
    shutil.rmtree(folder)
    return "no folder"


def truncated(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return "truncated"


def pickled(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    return "pickle"


def without_a_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return "tokenizer.json is a Git LFS pointer"


@pytest.mark.parametrize("break_folder", [missing, truncated, pickled, without_a_tokenizer])
def test_bad_folders_are_named(tiny_llama: Path, tmp_path: Path, break_folder: object) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    expected = break_folder(folder)  # type: ignore[operator]
    result = start("--model", str(folder))
    assert result.returncode == 1
    assert expected in result.stderr
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_settings_are_named() -> None:
    result = start("--threads", "0")
    assert result.returncode == 2
    assert "--threads: must be a whole number, 1 or more" in result.stderr


def test_intervals_between_messages_are_given_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--address", "127.0.0.1:0", "--model", "m"]
    assert parse_arguments(arguments).stream_interval_s == 0.02
    assert parse_arguments([*arguments, "--stream-interval-ms", "0"]).stream_interval_s == 0
    for bad in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            parse_arguments([*arguments, "--stream-interval-ms", bad])
        assert "--stream-interval-ms: must be a number of milliseconds, 0 or more" in capsys.readouterr().err
