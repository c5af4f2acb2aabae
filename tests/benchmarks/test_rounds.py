"""Serving benchmarks: a contestant that fails is a row that says so, and the others are measured."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import contestants
from benchmarks.contestants import Absent, Contestant, PeerError, PeerProcess
from benchmarks.report import print_table, write_chart, write_json
from benchmarks.rounds import Failure, Prompts, Row, measure
from specgrove.kernels.bandwidth import ReadBandwidth
from specgrove.tokenizer import Tokenizer
from tests.router.toy_language import toy_tokenizer_json

ARGUMENTS = argparse.Namespace(rounds=2, prompts_per_round=1, max_tokens=4)
_PEER = """
import json, os, signal, sys
print(json.dumps({"ready": True}), flush=True)
for number, line in enumerate(sys.stdin):
    if number == 2:
        os.kill(os.getpid(), signal.SIGILL)
    print(json.dumps({"num_tokens": 4}), flush=True)
"""


class Steady:
    """Puts out what it was asked for."""

    name, precision, speculation, max_batch = "steady", "bfloat16", "none", 8

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        return len(prompts) * max_tokens

    def steps(self) -> tuple[float | None, float | None]:
        return None, None

    def forget_steps(self) -> None: ...


class FixedBandwidth(ReadBandwidth):
    """Measures nothing."""

    def __init__(self) -> None: ...

    def measure(self) -> float:
        return 10.0


def _measured(contestant: Contestant, batch: int) -> list[Row | Failure]:
    prompts = Prompts(Tokenizer(toy_tokenizer_json(), {}, None), [[1, 2]] * 40, [3] * 2000)
    taking_part: list[tuple[Contestant, int]] = [(contestant, 1), (Steady(), 1)]
    return measure(taking_part, batch, prompts, ARGUMENTS, FixedBandwidth(), lambda _: None)


@pytest.fixture
def dying_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeerProcess:
    """Its process is killed amid a round, as by an instruction that the machine doesn't have."""
    (tmp_path / "peer.py").write_text(_PEER)
    monkeypatch.setattr(contestants, "PEERS", tmp_path)
    return PeerProcess(sys.executable, "peer.py", [], name="peer", precision="Q4_0", max_batch=8)


def test_a_peer_that_dies_is_a_row_and_the_others_go_on(dying_peer: PeerProcess, tmp_path: Path) -> None:
    first, later = _measured(dying_peer, 1), _measured(dying_peer, 2)
    for batch, (failed, steady) in ((1, first), (2, later)):
        assert failed == Failure("peer", "Q4_0", "none", batch, "peer was killed by SIGILL")
        assert isinstance(steady, Row)
        assert steady.tokens_per_s > 0
    dying_peer.close()
    written = tmp_path / "rows.json"
    write_json(first + later, {"machine": "this one"}, written)
    assert [row.get("reason", "") for row in json.loads(written.read_text())] == [
        "peer was killed by SIGILL", "", "peer was killed by SIGILL", "",
    ]  # fmt: skip
    write_chart(first + later, {}, tmp_path / "rows.png", lambda _: None)
    console = Console(record=True, width=200)
    print_table(first + later, console)
    text = console.export_text()
    assert "batch 2: peer Q4_0 failed: peer was killed by SIGILL" in text
    assert text.count("steady") == 2


def test_a_peer_that_does_not_start_is_a_row() -> None:
    absent = Absent("peer", "Q4_0", 8, PeerError("peer has ended with exit code 1"))
    failed, steady = _measured(absent, 1)
    assert failed == Failure("peer", "Q4_0", "none", 1, "peer has ended with exit code 1")
    assert isinstance(steady, Row)


def test_a_peer_that_ends_at_its_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peer.py").write_text("print('no such library'); raise SystemExit(3)")
    monkeypatch.setattr(contestants, "PEERS", tmp_path)
    with pytest.raises(PeerError, match=r"ended with exit code 3\nno such library"):
        PeerProcess(sys.executable, "peer.py", [], name="peer", precision="Q4_0", max_batch=8)
