"""The one-line stages of `make`: progress from what installers and compilers print, and logs that failures point to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.requirements import requirements
from tools.stage import Progress

STAGE = Path(__file__).parent.parent / "tools" / "stage.py"


def run_stage(log: Path, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(STAGE), "--log", str(log), "--title", "making it", "--", *command]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("lines", "fraction"),
    [
        (["[ 45%] Building CXX object a.o"], 0.45),
        (["[3/12] Building CXX object a.o", "warning: none"], 0.25),
        (["[8/10] Linking", "[1/10] another target"], 0.8),
        (["Collecting a", "  Downloading a.whl", "Requirement already satisfied: b in x"], 0.4),
        (["Collecting x"] * 9, 0.8),
        (["nothing to count"], 0.0),
    ],
)
def test_progress_follows_what_installers_and_compilers_print(lines: list[str], fraction: float) -> None:
    progress = Progress(num_items=4)
    for line in lines:
        progress.read(line)
    assert progress.fraction == pytest.approx(fraction)


def test_a_stage_is_one_line_and_its_output_is_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "build" / "setup.log"
    done = run_stage(log, sys.executable, "-c", "print('many'); print('lines')")
    assert done.returncode == 0
    assert "making it" in done.stdout
    assert "many" not in done.stdout
    assert "many\nlines" in log.read_text()


def test_a_stage_that_fails_shows_its_last_lines_and_where_the_log_is(tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    done = run_stage(log, sys.executable, "-c", "print('the compiler is missing'); raise SystemExit(3)")
    assert done.returncode == 3
    assert "FAILED" in done.stdout
    assert "the compiler is missing" in done.stderr
    assert str(log) in done.stderr


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = run_stage(tmp_path / "setup.log", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_running_takes_no_tools_of_tests() -> None:
    pyproject = STAGE.parent.parent / "pyproject.toml"
    names = {line.split(">")[0] for line in requirements(pyproject, [])}
    assert {"torch", "grpcio", "pybind11"} <= names
    assert not names & {"pytest", "ruff", "mypy", "scipy", "matplotlib", "gguf"}
    assert "pytest" in {line.split(">")[0] for line in requirements(pyproject, ["dev"])}
