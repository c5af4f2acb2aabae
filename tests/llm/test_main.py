"""``python -m llm_service`` with folders it can't serve: one clear line and exit code 1."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import tokenizers

from llm_service import __main__ as main
from llm_service import service
from llm_service.arguments import parse_arguments
from llm_service.loading import load_runner
from llm_service.servicer import ServedModel
from specgrove.kernels.threads import get_isa, set_isa
from specgrove.models.decoder.ends import Ends
from specgrove.models.decoder.family import read_spec
from specgrove.tokenizer import Tokenizer
from tests.tokenizer.shapes import byte_level_backend
from tests.waiting import LIMIT_S


def arguments_of(*arguments: str) -> list[str]:
    return ["llm_service", "--address", "127.0.0.1:0", *arguments]


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(arguments_of("--help")[1:])
    assert end.value.code == 0
    assert "--kv-slots" in capsys.readouterr().out


def missing(folder: Path) -> str:
    shutil.rmtree(folder)
    return "is not there"


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
def test_bad_folders_are_named(
    tiny_llama: Path,
    tmp_path: Path,
    break_folder: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    expected = break_folder(folder)
    monkeypatch.setattr(sys, "argv", arguments_of("--model", str(folder)))
    monkeypatch.setattr(main, "set_up_logging", lambda *_: None)
    assert main.main() == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert expected in said
    assert str(folder) in said
    assert "\n" not in said


def test_bad_settings_are_named() -> None:
    command = [sys.executable, "-m", *arguments_of("--threads", "0")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert result.returncode == 2
    assert "--threads: must be a whole number from 1 to 1024" in result.stderr


@pytest.mark.usefixtures("kernel_settings")
def test_instructions_may_be_fewer_than_the_processor_has(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = get_isa()
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    byte_level_backend().save(str(folder / "tokenizer.json"))
    load_runner(parse_arguments(["--model", str(folder), "--device", "cpu", "--instruction-set", "plain"]))
    assert get_isa() == "plain"
    set_isa(best)
    with pytest.raises(SystemExit):
        parse_arguments(["--instruction-set", "sse9"])
    assert "--instruction-set" in capsys.readouterr().err


@pytest.mark.skipif(get_isa() == "amx", reason="needs a processor without AMX")
def test_instructions_that_there_are_not_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    best = get_isa()
    with pytest.raises(SystemExit):
        parse_arguments(["--instruction-set", "amx"])
    assert (
        f"--instruction-set amx: this processor lacks the instructions amx; its best is {best}"
        in capsys.readouterr().err
    )
    assert get_isa() == best


def test_intervals_between_messages_are_given_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--address", "127.0.0.1:0", "--model", "m"]
    assert parse_arguments(arguments).stream_interval_s == 0.02
    assert parse_arguments([*arguments, "--stream-interval-ms", "0"]).stream_interval_s == 0
    for bad in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            parse_arguments([*arguments, "--stream-interval-ms", bad])
        assert "--stream-interval-ms: must be a number of milliseconds, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("num_ids", "num_warnings"), [(97, 0), (98, 0), (99, 1)])
def test_token_ids_that_the_model_lacks_are_warned_of(
    num_ids: int, num_warnings: int, tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of an added token without a row of the embedding, which no text has."""
    vocab = {f"t{index}": index for index in range(num_ids - 1)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="t0"))
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = SimpleNamespace(
        ends=Ends((1,), (1,)), tokenizer=Tokenizer.from_folder(tmp_path), spec=read_spec(tiny_llama)
    )
    with caplog.at_level("WARNING"):
        service.warn_of_text(cast(ServedModel, model))
    assert len(caplog.records) == num_warnings
    assert all(
        "the tokenizer has 98 ordinary token ids and the model 97" in record.getMessage() for record in caplog.records
    )
