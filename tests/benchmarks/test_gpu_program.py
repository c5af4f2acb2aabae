"""The GPU benchmark as a program: parts in processes of their own, and what is written of their rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import report
from benchmarks.gpu.card import Card, conditions
from benchmarks.gpu.rows import Row, at_least, at_most, row_from, skipped
from tests.devices import DEVICES


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_parts_run_in_processes_of_their_own(device: str, tmp_path: Path) -> None:
    written = tmp_path / "new" / "rows.json", tmp_path / "rows.png"
    arguments = ["--device", device, "--tiny", "--json", str(written[0]), "--png", str(written[1])]
    assert program.main([*arguments, "--only", "ssm", "linears"]) == 0
    content = json.loads(written[0].read_text())
    assert {"card", "torch", "CUDA", "commit", "date", "copy bandwidth", "matrix rate"} <= content["conditions"].keys()
    parts = [row["part"] for row in content["rows"]]
    assert list(dict.fromkeys(parts)) == ["SSM level", "linears of one 7B layer"]
    assert all(row["value"] is not None for row in content["rows"])
    assert {row["verdict"] for row in content["rows"]} == {"tiny", ""}


@pytest.mark.parametrize(
    ("part", "names"), [("verify", ["verify step", "step overhead"]), ("attention", ["tree attention"])]
)
def test_parts_give_rows(part: str, names: list[str], card: Card) -> None:
    rows = list(program.measured(part, card))
    assert list(dict.fromkeys(row.part for row in rows)) == names
    assert all(row.value is not None and row.verdict in ("tiny", "") for row in rows)


def test_a_part_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def start_one_that_never_ends(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", "import time; time.sleep(3600)"], **options)

    monkeypatch.setattr(program.subprocess, "Popen", start_one_that_never_ends)
    written = tmp_path / "rows.json"
    assert program.main(["--device", "cpu", "--only", "ssm", "--part-timeout-s", "0.1", "--json", str(written)]) == 1
    (row,) = json.loads(written.read_text())["rows"]
    assert (row["verdict"], row["note"]) == ("skipped", "it took more than 0 s")


def test_a_folder_is_no_file_for_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--device", "cpu", "--json", str(tmp_path)])
    assert "is a folder: name a file in it" in capsys.readouterr().err


def test_rows_survive_json() -> None:
    row = Row("part", "what", 1.5, "x", at_most(2), 3.0, (2.0, 4.0), 1.1, "note", is_full=False)
    assert row_from(json.loads(json.dumps(asdict(row)))) == row
    assert row_from(asdict(skipped("part", "what", "x", None, "why"))) == skipped("part", "what", "x", None, "why")


def test_a_part_that_breaks_off_leaves_what_it_had(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(card: Card) -> Iterator[Row]:
        yield Row("verify step", "one", 1.0, "x")
        raise RuntimeError("the card is gone")

    monkeypatch.setitem(program.PARTS, "verify", breaks)
    first, broken = program.measured("verify", card)
    assert first.value == 1.0
    assert broken.verdict == "skipped"
    assert "the card is gone" in broken.note
    assert not program.is_right([first, broken])


def test_verdicts_are_written(card: Card, tmp_path: Path) -> None:
    rows = [
        Row("part", "good", 1.1, "x", at_most(1.2), 3.0, (2.0, 4.0), 1.1),
        Row("part", "bad", 0.5, "x", at_least(0.75)),
        Row("part", "plain", 2.0, "x"),
        skipped("part", "none", "x", at_most(1), "no room"),
    ]
    report.write_json(rows, conditions(card), tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["verdict"] for row in content["rows"]] == ["met", "missed", "", "skipped"]
    assert [row["target"] for row in content["rows"]] == ["<= 1.2", ">= 0.75", None, "<= 1"]
    assert content["rows"][3]["note"] == "no room"
    said: list[str] = []
    report.write_chart(rows, conditions(card), tmp_path / "rows.png", said.append)
    assert (tmp_path / "rows.png").exists() == said[0].startswith("chart in")
