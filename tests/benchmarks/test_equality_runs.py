"""Long comparisons of outputs: what was made is kept, and services are killed in turn."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import cast

import pytest

from benchmarks import killing
from benchmarks.kept_outputs import KeptOutputs, Output
from benchmarks.killing import killed_every
from specgrove.suite.processes import Suite
from tests.waiting import wait_until

_MADE_WITH = {"llm": "one", "ssms": ("a", "b")}


def _output(*token_ids: int) -> Output:
    return Output(token_ids, num_steps=2, num_drafted=3, num_replays=1)


def test_what_was_made_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    kept = KeptOutputs(path, _MADE_WITH)
    kept.add("greedy", "merged", 0, _output(1, 2))
    kept.add("greedy", "merged", 1, _output(3))
    with path.open("a") as file:
        file.write('["greedy", "merg')  # killed
    for _ in range(2):
        again = KeptOutputs(path, _MADE_WITH)
        assert again.get("greedy", "merged", 0) == _output(1, 2)
        assert again.get("greedy", "merged", 1) == _output(3)
        assert again.get("sampled", "merged", 0) is None
    again.add("sampled", "merged", 0, _output(4))
    assert KeptOutputs(path, _MADE_WITH).get("sampled", "merged", 0) == _output(4)


def test_outputs_of_another_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    KeptOutputs(path, _MADE_WITH).add("greedy", "merged", 0, _output(1))
    with pytest.raises(ValueError, match="name another file"):
        KeptOutputs(path, _MADE_WITH | {"llm": "other"})
    path.write_text(path.read_text().replace('["greedy"', '"greedy"') + "[]\n")
    with pytest.raises(ValueError, match="line 2 is no output"):
        KeptOutputs(path, _MADE_WITH)


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.touch()
    KeptOutputs(path, _MADE_WITH).add("greedy", "merged", 0, _output(1))
    assert KeptOutputs(path, _MADE_WITH).get("greedy", "merged", 0) == _output(1)


def test_in_memory_alone() -> None:
    kept = KeptOutputs(None, {})
    kept.add("greedy", "merged", 0, _output(1))
    assert kept.get("greedy", "merged", 0) == _output(1)


class _Processes:
    """A suite whose SSM service is down now and then."""

    def __init__(self) -> None:
        self.num_asked = 0

    def pid(self, service: str) -> int | None:
        self.num_asked += 1
        return {"ssm_service": 7 if self.num_asked % 4 == 1 else None, "llm_service": 8}[service]


def test_services_are_killed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(killing.os, "kill", lambda pid, number: killed.append((pid, number)))
    suite = cast("Suite", _Processes())
    with killed_every(suite, 0.01):
        wait_until(lambda: len(killed) >= 6)
    assert killed[:3] == [(7, signal.SIGKILL), (8, signal.SIGKILL), (8, signal.SIGKILL)]
    killed.clear()
    with killed_every(suite, 0.0):
        pass
    assert not killed
