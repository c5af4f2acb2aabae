"""How many CPUs there are: the default of ``--threads``, and a warning where more threads compute."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_service import loading as llm_service
from specgrove.machine import cpus
from specgrove.machine.cpus import available_cpus, too_few_for


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


def test_more_threads_than_cpus_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 2)
    assert too_few_for("2 threads", 2) is None
    assert (
        too_few_for("3 threads", 3) == "3 threads on 2 CPUs: threads wait for one another, and each step takes longer"
    )


@pytest.mark.parametrize(
    ("num_ranks", "num_threads", "said"),
    [(None, 2, None), (None, 3, "3 threads on 2 CPUs"), (2, 1, None), (7, 1, "7 ranks with a thread each on 2 CPUs")],
)
def test_so_are_more_ranks(
    num_ranks: int | None,
    num_threads: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 2)
    monkeypatch.setattr(llm_service, "amx_refusal", lambda: None)
    rank = None if num_ranks is None else SimpleNamespace(num_local=num_ranks, is_first_of_machine=True)
    with caplog.at_level(logging.WARNING):
        llm_service._warn_of_cpus(num_threads, rank)  # type: ignore[arg-type]
    assert (said or "") in caplog.text
    assert len(caplog.records) == (said is not None)
