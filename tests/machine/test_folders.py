"""Where a user's files lie, and users without a home folder, as in containers that run under a number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from specgrove.machine.folders import default_cache_dir, provide_home

ROOT = Path(__file__).parent.parent.parent
UNKNOWN_USER = """
import pwd, sys

def unknown(uid):
    raise KeyError(uid)

pwd.getpwuid = unknown
import os
import torch  # takes most of the time, and looks for no home: once for all commands
from specgrove.cli import main

for command in sys.argv[1:]:
    if os.fork() == 0:
        sys.exit(main(command.split()))
    print("exit code", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_the_cache_is_where_the_desktop_standard_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "specgrove"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert default_cache_dir() == tmp_path / ".cache" / "specgrove"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert default_cache_dir() == Path("/var/cache/mine/specgrove")


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert default_cache_dir().parts[-2:] == (".cache", "specgrove")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that stands for a home."""
    monkeypatch.setenv("HOME", "/")  # as Docker gives to users that it doesn't know
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"user-{os.getuid()}"


def test_a_user_without_a_home_gets_one_of_its_own(no_home: Path) -> None:
    provide_home()
    assert Path.home() == no_home
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert default_cache_dir() == no_home / ".cache" / "specgrove"
    provide_home()


def test_a_home_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_home()
    assert Path.home() == tmp_path


def test_a_folder_of_another_user_is_no_home(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    no_home.with_name("user-54321").mkdir()
    with pytest.raises(PermissionError, match=r"user-54321 is another user's: set HOME"):
        provide_home()


def test_commands_of_an_unknown_user_without_a_home(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", UNKNOWN_USER, "--help", "models list", "models info nobody/nothing"],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert re.findall("exit code .*", ended.stdout) == ["exit code 0", "exit code 0", "exit code 1"], ended.stderr
    assert not list((tmp_path / "here").iterdir()), "something was written to a folder called ~"
