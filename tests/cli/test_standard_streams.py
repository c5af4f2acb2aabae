"""The streams of a command: closed ones, a full disk, and a reader that has gone. In this process; ``test_streams`` has real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from specgrove.cli import main
from specgrove.cli.standard_streams import _reserve, _Unread, provide_streams


def test_results_that_fill_the_disk_are_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They wait in a buffer until the command ends."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["completion", "bash"]) == 1
        with pytest.raises(SystemExit):
            main(["--version"])
    # Closing has written nothing more, and not failed.
    assert capsys.readouterr().err == "specgrove: error: No space left on device\n"


def test_help_that_fills_the_disk_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["--help"]) == 1
    assert capsys.readouterr().err == "specgrove: error: No space left on device\n"


def test_results_that_nobody_reads_are_no_error_to_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == ""


def test_what_is_for_standard_error_never_comes_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``2>&-`` Python has no ``sys.stderr``, and ``print`` takes ``None`` for standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["key", "bob"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("bob sha256:")
    assert out.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["fly"])
    assert capsys.readouterr().out == ""


def test_lines_for_people_are_taken_where_nobody_reads_them() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for number in (writing, os.open("/dev/full", os.O_WRONLY)):
        with _Unread(number, "w") as stream:
            assert stream.write(b"one line\n") == 9


def test_the_number_of_a_closed_stream_is_no_files(tmp_path: Path) -> None:
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    _reserve(number)
    with (tmp_path / "file").open("w") as file:
        assert file.fileno() != number
    os.close(number)


def test_a_second_command_in_a_process_changes_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    provide_streams()
    first = sys.stderr
    provide_streams()
    assert sys.stderr is first
