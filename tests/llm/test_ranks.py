"""The processes of one LLM service: how they are started, what each takes of the machine, and how they end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from llm_service import ranks, service
from llm_service.arguments import parse_arguments
from llm_service.config import is_rank
from specgrove.models.decoder.parallel_layout import ParallelLayout
from tests.machine.killed_owner import leave_folder_of_killed

CONFIG = parse_arguments(["--tensor-parallel", "2", "--pipeline-parallel", "2"])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def launcher(launched: list[Any], outcome: BaseException | None) -> Callable[..., Any]:
    def elastic_launch(config: Any, entrypoint: str) -> Callable[..., None]:
        def run(*command: str) -> None:
            launched.append((config, entrypoint, command))
            assert Path(config.logs_specs.root_log_dir).is_dir()
            if outcome is not None:
                raise outcome

        return run

    return elastic_launch


FAILED = ChildFailedError("llm_service", {0: ProcessFailure(0, 1, 1, "none")})


@pytest.mark.parametrize(
    ("outcome", "exit_code"),
    [
        (None, 0),
        (FAILED, 1),
        (SignalException("stopped", signal.SIGTERM), 0),
        (SignalException("stopped", signal.SIGINT), 0),
        (SignalException("hung up", signal.SIGHUP), 128 + signal.SIGHUP),
    ],
)
def test_the_launcher_ends_as_its_ranks_do(
    outcome: BaseException | None, exit_code: int, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(ranks, "elastic_launch", launcher(launched, outcome))
    assert ranks.launch(ParallelLayout(2, 2), ["--model", "m"], drain_timeout_s=5.0) == exit_code
    ((config, entrypoint, command),) = launched
    assert (config.nproc_per_node, config.max_restarts, entrypoint) == (4, 0, sys.executable)
    assert config.shutdown_timeout > 5  # ranks that drain are not killed
    # With the launcher, whatever it ends of, its ranks end.
    assert command == ("-m", "specgrove.suite.supervised", str(os.getpid()), "llm_service", "--model", "m")
    assert list(temporary.iterdir()) == []


def test_what_killed_launchers_have_left_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_folder_of_killed(temporary, "specgrove-ranks-")
    monkeypatch.setattr(ranks, "elastic_launch", launcher([], None))
    ranks.launch(ParallelLayout(2, 1), [], drain_timeout_s=5.0)
    assert list(temporary.iterdir()) == []


def test_a_process_that_torchrun_started_is_a_rank() -> None:
    assert is_rank({"RANK": "0", "WORLD_SIZE": "4"})
    assert not is_rank({"WORLD_SIZE": "4"})


def test_another_number_of_ranks_than_the_layout_has_is_refused() -> None:
    with pytest.raises(ValueError, match="started 3 ranks, tensor-parallel 2 x 2 stages need 4"):
        ranks.join(CONFIG, {"RANK": "0", "WORLD_SIZE": "3"})


@pytest.mark.parametrize(
    ("device", "sharing"), [("cpu", range(4, 6)), ("cuda", range(5, 6))], ids=["the machine's", "its own GPU's"]
)
def test_memory_is_shared_by_the_ranks_of_a_machine(device: str, sharing: range) -> None:
    rank = ranks.Rank(5, 2, 1, torch.device(device), SimpleNamespace(), None)
    assert rank.sharing_memory == sharing
    assert not rank.is_first_of_machine


class Ended(BaseException):
    """In the place of the end of this process."""


@pytest.mark.parametrize(
    ("rank", "error", "level"),
    [
        ("0", RuntimeError("a pass over the ranks failed"), logging.ERROR),
        ("1", RuntimeError("Connection closed by peer"), logging.INFO),  # of what rank 0 tells
        ("1", ValueError("no such model"), logging.ERROR),
    ],
)
def test_a_rank_that_fails_says_why_and_ends_at_once(
    rank: str, error: Exception, level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without waiting for anything: the others may never answer again."""

    def join(*_: object) -> None:
        raise error

    def end(exit_code: int) -> None:
        raise Ended(exit_code)

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(ranks, "join", join)
    monkeypatch.setattr(os, "_exit", end)
    caplog.set_level(logging.INFO)
    with pytest.raises(Ended) as ended:
        service.run_rank(CONFIG)
    assert ended.value.args == (1,)
    assert [(record.levelno, record.message) for record in caplog.records] == [(level, str(error))]


def test_a_worker_ends_well_when_rank_0_tells_it_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(exit_code: int) -> None:
        raise Ended(exit_code)

    links, ran = SimpleNamespace(), []
    rank = ranks.Rank(1, 2, 1, torch.device("cpu"), links, None)
    monkeypatch.setattr(ranks, "join", lambda *_: rank)
    monkeypatch.setattr(service, "load", lambda config, given: (Path("m"), given, 64))
    monkeypatch.setattr(service, "ModelRunner", lambda decoder, num_slots: (decoder, num_slots))
    monkeypatch.setattr(service, "run_worker", lambda *given: ran.append(given))
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        service.run_rank(CONFIG)
    assert ended.value.args == (0,)
    assert ran == [((rank, 64), links)]
