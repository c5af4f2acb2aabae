"""Temporary folders of suites and services: gone with their owners, and never one of somebody who lives."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from specgrove.machine import owned_folders
from specgrove.machine.owned_folders import temporary_folder
from specgrove.suite.processes import Suite, SuiteConfig
from tests.machine.killed_owner import leave_folder_of_killed

CONFIG = SuiteConfig(llm_folder=Path("/model"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_next_suite_removes_what_a_killed_one_left(temporary: Path) -> None:
    left = leave_folder_of_killed(temporary, "specgrove-suite-")
    living = Suite(CONFIG)
    assert not left.exists()
    (of_living,) = [path for path in temporary.iterdir() if path.is_dir()]
    assert living.address == f"unix:{of_living}/router.sock"
    Suite(CONFIG).stop()
    assert of_living.exists()
    living.stop()
    living.stop()
    assert list(temporary.iterdir()) == []


def test_only_its_user_may_look_in(temporary: Path) -> None:
    with temporary_folder("specgrove-test-") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_knows_no_locks_will_do(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(owned_folders.fcntl, "flock", refuse)
    with temporary_folder("specgrove-test-") as folder, temporary_folder("specgrove-test-"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(temporary.iterdir())) == 2
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("kind", ["another user's", "another kind's", "without a lock"])
def test_what_is_not_ours_stays(kind: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave_folder_of_killed(temporary, "specgrove-bench-" if kind == "another kind's" else "specgrove-suite-")
    if kind == "another user's":
        uid = os.geteuid()
        monkeypatch.setattr(owned_folders.os, "geteuid", iter((uid + 1, uid, uid, uid)).__next__)
    if kind == "without a lock":
        left.with_name(f"{left.name}.lock").unlink()
    Suite(CONFIG).stop()
    assert (left / "left").exists()
