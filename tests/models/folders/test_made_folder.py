"""Folders in the making: whole or not there, whatever happens to their maker; and disks that are too small, told in a line."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from llm_service.arguments import parse_arguments
from llm_service.loading import load_runner
from specgrove.cli import main
from specgrove.models.folders import conversion, disk_room
from specgrove.models.folders.disk_room import DiskFullError, DiskNeed, check_room
from specgrove.models.folders.hub import ModelNotFoundError, resolve_model
from specgrove.models.folders.made_folder import make_once, sweep_cache, unfinished_folder, whole_folder
from specgrove.models.weights import quantization
from specgrove.program.stores import MappedWeights
from tests.conftest import save_tiny_llama
from tests.router.toy_language import toy_tokenizer_json

NEED = DiskNeed("making it")
_MAKER = """
import sys, time
from pathlib import Path
from specgrove.models.folders.disk_room import DiskNeed
from specgrove.models.folders.made_folder import make_once, whole_folder

target = Path(sys.argv[1])

def make():
    with whole_folder(target, DiskNeed("making it")) as folder:
        (folder / "weights").write_bytes(b"0" * 100_000)
        print("half", flush=True)
        time.sleep(1000)

make_once(target, make, print)
"""


def start_maker(target: Path) -> subprocess.Popen[str]:
    maker = subprocess.Popen([sys.executable, "-c", _MAKER, str(target)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdout.readline() == "half\n"
    return maker


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A cache in which a process was killed at its work."""
    maker = start_maker(tmp_path / "quantized" / "model")
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert any(path.is_file() for path in tmp_path.rglob("weights"))
    return tmp_path


def left(cache: Path) -> list[str]:
    """All but the locks of ``make_once``, which stay."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".model.lock")


def test_what_a_killed_process_left_is_swept_at_the_next_start(killed: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        resolve_model(str(killed / "nothing"), cache_dir=killed, progress=print)
    assert left(killed) == []


def test_what_a_killed_process_left_is_swept_when_it_is_made_again(killed: Path) -> None:
    target = killed / "quantized" / "model"

    def make() -> None:
        with whole_folder(target, NEED) as folder:
            (folder / "whole").write_text("")

    assert make_once(target, make, print) == target
    assert left(killed) == ["whole"]


@pytest.mark.parametrize("kind", ["link", "volume", ".", "new disk", "left over", "parent", "bind mount"])
def test_an_empty_folder_that_must_stay_is_filled(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume can't be replaced, nor can the folder that a shell is in."""
    empty = tmp_path / "empty"
    empty.mkdir()
    target = {"link": tmp_path / "link", ".": Path()}.get(kind, empty)
    left = {"new disk": {"lost+found"}, "left over": {".unfinished-model-0123"}}.get(kind, set())
    for name in left:
        (empty / name).mkdir()
    match kind:
        case "link":
            target.symlink_to(empty)
        case "volume":
            monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == empty)
        case ".":
            monkeypatch.chdir(empty)
        case "parent":
            monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
        case "bind mount":
            monkeypatch.setattr(Path, "rename", renaming_but(empty))
    inode = empty.stat().st_ino
    with whole_folder(target, NEED) as folder:
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(name)
        (folder / "sub").mkdir()
        assert not (empty / "config.json").exists()
    assert {path.name for path in empty.iterdir()} - left == {"config.json", "model.safetensors", "sub"}
    assert empty.stat().st_ino == inode or kind == "link"
    assert not target.is_symlink() or target.readlink() == empty


def renaming_but(fixed: Path) -> Callable[[Path, Path], Path]:
    """``Path.rename`` where nothing takes the place of ``fixed``."""
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if target == fixed:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    return renamed


def test_of_two_runs_that_fill_one_folder_the_second_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def both() -> None:
        with whole_folder(Path(), NEED) as second:
            (second / "config.json").write_text("second")
            with whole_folder(Path(), NEED) as first:
                (first / "config.json").write_text("first")

    with pytest.raises(ValueError, match="exists already"):
        both()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "first")]


@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_where_no_folder_can_be_made_is_told_first(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    words = {"quantize": ["quantize", "--bits", "8"], "convert": ["models", "convert"]}[command]
    for out, told in (
        ("file/out", "file is no folder that can be written to"),
        ("broken", "nowhere, which is not there"),
    ):
        assert main([*words, str(tmp_path / "no-model"), "--out", str(tmp_path / out)]) == 1
        assert told in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main([*words, str(tmp_path / "no-model"), "--out", str(tmp_path / "a" / "b")]) == 1
    assert f"b can't be made: {tmp_path} is no folder that can be written to" in capsys.readouterr().err


def test_what_a_living_process_makes_is_left_alone(tmp_path: Path) -> None:
    maker = start_maker(tmp_path / "model")
    try:
        sweep_cache(tmp_path)
        assert "weights" in left(tmp_path)
        with whole_folder(tmp_path / "other", NEED) as folder, unfinished_folder(tmp_path, "third"):
            sweep_cache(tmp_path)  # not in our own process either
            assert folder.is_dir()
        assert (tmp_path / "other").is_dir()
    finally:
        maker.kill()
        maker.wait()
    sweep_cache(tmp_path)
    assert left(tmp_path) == []


def test_a_disk_without_locks_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network disks: nobody could know whose maker lives."""

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="not supported"), whole_folder(tmp_path / "model", NEED):
        pass
    assert list(tmp_path.iterdir()) == []


def test_others_folders_are_never_swept(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-business").mkdir()
    (tmp_path / ".unfinished-business" / "poem").write_text("")
    (tmp_path / ".model.lock").write_text("")
    sweep_cache(tmp_path)
    sweep_cache(tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", ".unfinished-business"]


def write_half(target: Path, need: DiskNeed, error: Exception) -> None:
    with whole_folder(target, need) as folder:
        (folder / "weights").write_text("")
        raise error


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        write_half(tmp_path / "model", NEED, RuntimeError("broken"))
    assert list(tmp_path.iterdir()) == []


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
                                   SafetensorError("I/O error: No space left on device (os error 28)")])  # fmt: skip
def test_a_disk_that_runs_full_is_one_line(error: Exception, tmp_path: Path) -> None:
    message = r"^making it: the disk ran full in .*, .* are free; it needs about 3 MB: make room"
    with pytest.raises(DiskFullError, match=message) as raised:
        write_half(tmp_path / "model", DiskNeed("making it", 3_000_000), error)
    assert str(tmp_path) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_other_failures_to_write_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), whole_folder(tmp_path / "model", NEED):
        raise PermissionError(errno.EACCES, "no")


def test_room_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=90_000_000, free=50_000_000))
    check_room(tmp_path / "not" / "there", DiskNeed("making it", 40_000_000))
    check_room(tmp_path, NEED)
    with pytest.raises(DiskFullError, match=r"making it needs about 60 MB in .*/not/there, where 50 MB are free"):
        check_room(tmp_path / "not" / "there", DiskNeed("making it", 60_000_000))


def test_a_disk_that_tells_nothing_is_not_taken_for_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=0, free=0))
    check_room(tmp_path, DiskNeed("making it", 60_000_000))


@pytest.mark.parametrize("command", ["quantize", "convert"])
@pytest.mark.parametrize("runs_full", [False, True])
def test_commands_on_a_full_disk_say_so_in_a_line(
    command: str, runs_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file

    source, out = save_tiny_llama(tmp_path / "source", seed=1), tmp_path / "made" / "out"
    (source / "tokenizer.json").write_text("{}")
    if command == "convert":
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    if runs_full:
        for module in (quantization, conversion):
            monkeypatch.setattr(module.SafetensorsWriter, "finish", full)
    else:
        monkeypatch.setattr(disk_room, "_free_bytes", lambda folder: 1000)
    arguments = (
        ["quantize", str(source), "--bits", "8"] if command == "quantize" else ["models", "convert", str(source)]
    )
    assert main([*arguments, "--out", str(out)]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    what = "quantising source to 8 bits" if command == "quantize" else "converting source"
    assert last.startswith(f"specgrove: error: {what}")
    assert ("the disk ran full" if runs_full else "where 0 MB are free") in last
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


def test_offloading_asks_for_room_and_says_when_it_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    folder = save_tiny_llama(tmp_path / "model", seed=0)
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    arguments = ["--model", str(folder), "--cache-dir", str(tmp_path / "cache"), "--kv-slots", "64"]
    store = MappedWeights(tmp_path / "offload", 1000)
    monkeypatch.setattr(store._file, "write", full)
    with pytest.raises(DiskFullError, match=r"offloading the weights: the disk ran full in .*/offload"):
        store.linear(torch.ones(64, 64), None, torch.float32)
    monkeypatch.setattr(disk_room, "_free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFullError, match=r"offloading the weights needs about .* in .*/cache/offload"):
        load_runner(parse_arguments([*arguments, "--max-weight-memory", "1MiB", "--device", "cpu", "--threads", "1"]))
