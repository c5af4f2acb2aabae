"""The default of ``--threads``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specgrove.cpus import available_cpus


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", 8), ("250000 100000", 3), ("1000 100000", 1), ("900000 100000", 8)]
)
def test_the_containers_quota_counts(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_cpus(tmp_path) == 8
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(limit + "\n")
    assert available_cpus(tmp_path) == expected
