"""Values that follow their files."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from specgrove.errors import UnauthorizedError
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.watched_files import WatchedFiles


def number_in(path: Path) -> WatchedFiles[int]:
    return WatchedFiles([path], lambda: int(path.read_text()))


def test_a_change_is_seen_at_once_and_read_once(tmp_path: Path) -> None:
    path, reads = tmp_path / "number", list[str]()

    def read() -> str:
        reads.append(path.read_text())
        return reads[-1]

    path.write_text("first")
    watched = WatchedFiles([path], read)
    assert [watched.newest(), watched.newest()] == ["first", "first"]
    path.write_text("second")
    assert [watched.newest(), watched.newest()] == ["second", "second"]
    assert reads == ["first", "second"]


def test_what_is_no_good_at_the_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "number"
    with pytest.raises(FileNotFoundError):
        number_in(path)
    path.write_text("none")
    with pytest.raises(ValueError, match="none"):
        number_in(path)


def test_what_is_no_good_later_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    watched = number_in(path)
    path.write_text("none")
    assert [watched.newest(), watched.newest()] == [1, 1]
    path.unlink()
    assert [watched.newest(), watched.newest()] == [1, 1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "'none'; what was read before stays in use" in caplog.messages[0]
    assert "No such file" in caplog.messages[1]
    path.write_text("23")
    assert watched.newest() == 23


def test_what_could_not_be_read_for_another_reason_is_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, failures = tmp_path / "number", [False, True, True, False]

    def read() -> int:
        if failures.pop(0):
            raise OSError(errno.EMFILE, "Too many open files")
        return int(path.read_text())

    path.write_text("1")
    watched = WatchedFiles([path], read)
    path.write_text("23")
    assert [watched.newest() for _ in range(4)] == [1, 1, 23, 23]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    """As a pair of which one has been exchanged, and the other has not."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("old")
    read: list[tuple[str, str]] = []

    def pair() -> tuple[str, str]:
        first = paths[0].read_text()
        if len(read) == 1:
            for path in paths:
                path.write_text("newer")
        read.append((first, paths[1].read_text()))
        return read[-1]

    watched = WatchedFiles(paths, pair)
    paths[0].write_text("newly")
    assert watched.newest() == ("newer", "newer")
    assert read[1] == ("newly", "newer")


def test_api_keys_are_those_of_the_file_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("first\nsecond\n")
    keys = ApiKeys.in_file(path)

    def known(*asked: str) -> list[bool]:
        return [_is_known(keys, key) for key in asked]

    assert known("first", "second", "third") == [True, True, False]
    path.write_text("second\nthird one's better\n")
    assert known("first", "second", "third") == [True, True, False]
    path.write_text("second\nthird\n")
    assert known("first", "second", "third") == [False, True, True]
    assert "line 2: must be NAME sha256:HASH" in caplog.text
    assert "better" not in caplog.text


def _is_known(keys: ApiKeys, key: str) -> bool:
    try:
        keys.key_of(f"Bearer {key}")
    except UnauthorizedError:
        return False
    return True
