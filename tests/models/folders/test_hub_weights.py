"""Downloads from the hub that are broken off, by the command that k8s/components/model-download runs, in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import filelock
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, file_download
from safetensors.numpy import save

from specgrove.models.folders import hub_weights
from specgrove.models.folders.hub_weights import HubFile, _fetch, _sweep, fetch_weights
from tests.models.folders.downloading import MIB, Download
from tests.models.folders.hub_server import FakeHub, running
from tests.waiting import LIMIT_S, wait_until

MODEL = "owner/model"
WEIGHTS = "model.safetensors"
# Noise, so that no byte is like that at another place. It comes and is written by the MiB.
CONTENT = save({"a": np.random.default_rng(0).integers(0, 255, (8, MIB), np.uint8)})
CONFIG = json.dumps(
    {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
).encode()
FILES = {"config.json": CONFIG, "tokenizer.json": b"{}", WEIGHTS: CONTENT}
CUT_AT = 5 * MIB
WRITTEN = 3 * MIB


def start(hub: FakeHub, home: Path, *, by_xet: bool = False) -> Download:
    return Download(MODEL, hub.address, home, by_xet=by_xet)


def fetched(hub: FakeHub, home: Path, *, by_xet: bool = False) -> bytes:
    """The weights, after a download that is not broken off."""
    hub.may_send = lambda *_: True
    printed, errors = start(hub, home, by_xet=by_xet).result()
    assert printed, errors
    return (Path(printed.strip()) / WEIGHTS).read_bytes()


def blobs(home: Path) -> list[Path]:
    return [*(home / "hub").glob("models--owner--model/blobs/*")]


def size_of(path: Path) -> int:
    """0 of one that the library has removed since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kill_in_the_middle(hub: FakeHub, home: Path, *, by_xet: bool = False) -> None:
    downloading = start(hub, home, by_xet=by_xet)

    def goes_on(_: str, position: int) -> bool:
        """The rest keeps the process waiting, until it is killed."""
        return position < CUT_AT or downloading.wait() == 0

    hub.may_send = goes_on
    wait_until(lambda: any(size_of(path) >= WRITTEN for path in blobs(home)))
    downloading.kill()
    downloading.wait()
    hub.may_send = lambda *_: True


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        kill_in_the_middle(hub, tmp_path)
        assert fetched(hub, tmp_path) == CONTENT
        (first, second) = hub.starts
        assert first == (WEIGHTS, 0)
        assert second[1] >= WRITTEN
        assert fetched(hub, tmp_path) == CONTENT
        assert len(hub.starts) == 2
    assert len(blobs(tmp_path)) == len(FILES)


def test_what_arrived_damaged_is_fetched_anew(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        kill_in_the_middle(hub, tmp_path)
        (part,) = [path for path in blobs(tmp_path) if path.suffix == ".part"]
        with part.open("r+b") as content:
            content.seek(MIB)
            content.write(bytes(MIB))
        printed, errors = start(hub, tmp_path).result()
        assert not printed
        assert "model.safetensors arrived damaged: run it again, and it is fetched anew" in errors
        assert fetched(hub, tmp_path) == CONTENT
        assert hub.starts[-1] == (WEIGHTS, 0)


def test_a_part_that_is_too_long_is_fetched_anew(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        kill_in_the_middle(hub, tmp_path)
        (part,) = [path for path in blobs(tmp_path) if path.suffix == ".part"]
        with part.open("r+b") as content:
            content.truncate(len(CONTENT) + 1)
        assert fetched(hub, tmp_path) == CONTENT
        assert [start for _, start in hub.starts] == [0, 0]


def test_who_shares_the_cache_may_take_the_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--model"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "there").touch()
    (folder / "blobs" / "half.incomplete").touch()
    previous = os.umask(0o022)
    try:
        _sweep(folder)
        _fetch(HubFile(MODEL, WEIGHTS, "main", "there", 0), folder, threading.Event())
    finally:
        os.umask(previous)
    assert not (folder / "blobs" / "half.incomplete").exists()
    locks = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.lock")}
    assert locks == {"half.lock": 0o664, "there.lock": 0o664}


def test_where_files_have_no_locks_a_download_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    left = tmp_path / "models--owner--model" / "blobs" / "0.incomplete"
    left.parent.mkdir(parents=True)
    left.touch()
    _sweep(left.parent.parent)
    assert left.exists()


def test_where_one_file_fails_the_others_are_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    is_under_way = threading.Event()

    def http_get(place: str, target: BinaryIO, *, displayed_filename: str, **_: object) -> None:
        asked.append(displayed_filename)
        if displayed_filename == "fails":
            assert is_under_way.wait(LIMIT_S)
            raise OSError("the connection is lost")
        for number in range(100_000):
            target.write(bytes(4096))
            if number == 9:
                is_under_way.set()
            time.sleep(0.001)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_weights, "_NUM_AT_ONCE", 2)
    files = [HubFile(MODEL, name, "main", name, 1 << 40) for name in ("endless", "fails", "waits")]
    monkeypatch.setattr(hub_weights, "_large_files", lambda *_: files)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(location=url))
    monkeypatch.setattr(file_download, "http_get", http_get)
    with pytest.raises(OSError, match="the connection is lost"):
        fetch_weights(MODEL, ["*"], [])
    assert sorted(asked) == ["endless", "fails"]
    (part,) = tmp_path.rglob("endless.part")
    assert 10 * 4096 <= part.stat().st_size < 100_000 * 4096


def test_who_waits_for_another_process_is_broken_off_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has the file's lock, and does not give it back."""
    files = [HubFile(MODEL, name, "main", name, 1) for name in ("waits", "fails")]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_weights, "_LOCK_INTERVAL_S", 0.01)
    monkeypatch.setattr(hub_weights, "_large_files", lambda *_: files)

    def fail(url: str) -> None:
        raise OSError("the connection is lost")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    blob = tmp_path / "models--owner--model" / "blobs" / "waits"
    released = threading.Event()
    with filelock.FileLock(hub_weights._lock_path(blob)) as lock:
        rescue = threading.Timer(LIMIT_S, lambda: (released.set(), lock.release(force=True)))
        rescue.start()
        with pytest.raises(OSError, match="the connection is lost"):
            fetch_weights(MODEL, ["*"], [])
        rescue.cancel()
    assert not released.is_set()


def test_a_hub_that_does_not_tell_its_files_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("401 Client Error")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_weights, "_large_files", refuse)
    with caplog.at_level(logging.DEBUG):
        fetch_weights(MODEL, ["*"], [])
    assert "so the library fetches them: 401 Client Error" in caplog.text


def test_a_hub_that_breaks_off_again_and_again_is_told_in_a_line(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        for by_xet in (False, True):
            hub.may_send = lambda _, position: position < CUT_AT
            done = start(hub, tmp_path, by_xet=by_xet)
            errors = done.result()[1]
            assert done.wait() == 1
            assert re.search(r"error: 'owner/model' could not be fetched from the hub: .+$", errors)
            assert "Traceback" not in errors
        assert fetched(hub, tmp_path) == CONTENT
        assert hub.starts[-1] == (WEIGHTS, CUT_AT)


def test_what_the_library_never_uses_again_does_not_fill_the_volume(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        for _ in range(2):
            kill_in_the_middle(hub, tmp_path, by_xet=True)
        assert sum(path.suffix == ".incomplete" for path in blobs(tmp_path)) == 1
        assert fetched(hub, tmp_path, by_xet=True) == CONTENT
    assert len(blobs(tmp_path)) == len(FILES)


def test_what_cannot_be_served_is_told_before_its_weights_are_fetched(tmp_path: Path) -> None:
    """Some have a hundred gigabytes."""
    with running(FakeHub(MODEL, {**FILES, "config.json": b'{"architectures": ["MixtralForCausalLM"]}'})) as hub:
        errors = start(hub, tmp_path).result()[1]
    assert "'owner/model' can't be served: " in errors
    assert "architecture MixtralForCausalLM is not supported, only" in errors
    assert hub.starts == []


def test_templates_for_tools_are_fetched_too(tmp_path: Path) -> None:
    """They lie in a folder of their own; other folders are other frameworks'."""
    tools = "additional_chat_templates/tool_use.jinja"
    small = save({"a": np.zeros((1,), np.float32)})
    others = {f"onnx/{WEIGHTS}": CONTENT, "onnx/config.json": b"{}", "original/tokenizer.model": b"0"}
    with running(FakeHub(MODEL, {**FILES, WEIGHTS: small, tools: b"{{ tools }}", **others})) as hub:
        printed, errors = start(hub, tmp_path).result()
    assert printed, errors
    folder = Path(printed.strip())
    fetched_names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert fetched_names == {*FILES, tools}
    assert (folder / tools).read_bytes() == b"{{ tools }}"


def test_without_the_hub_what_is_here_is_enough(tmp_path: Path) -> None:
    with running(FakeHub(MODEL, FILES)) as hub:
        assert fetched(hub, tmp_path) == CONTENT
    assert fetched(hub, tmp_path) == CONTENT
