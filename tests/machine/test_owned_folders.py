"""Temporary folders of suites and services: gone with their owners, and never one of somebody who lives."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from specgrove.addresses import checked_target
from specgrove.machine import owned_folders
from specgrove.machine.owned_folders import temporary_folder
from specgrove.suite.processes import Suite, SuiteConfig
from tests.machine.killed_owner import leave_folder_of_killed

CONFIG = SuiteConfig(llm_folder=Path("/model"))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.parametrize("name", ["deep" * 20, "a,b"])
def test_a_suites_sockets_lie_elsewhere_where_no_socket_can(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of clusters and build systems have temporary folders deep in others; gRPC reads no comma."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    for config in (CONFIG, replace(CONFIG, num_llm_replicas=12, num_routers=2, ssms=())):
        suite = Suite(config)
        addresses = [*suite.router_addresses, suite.address_of("llm_service")]
        suite.stop()
        assert list(map(checked_target, addresses)) == addresses
        assert not any(address.startswith(f"unix:{tmp_path}") for address in addresses)


def test_where_none_will_do_the_usual_place_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens there says what is wrong."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("specgrove-test-", socket_names=("x" * 100,)) as folder:
        assert folder.parent == tmp_path


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
