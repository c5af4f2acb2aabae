"""A compiler for a copy of the checkout gives what was compiled here by the same command, and compiles everything else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import compiled_already
from tests.compiled_already import compiler_for, meaning

HERE = str(compiled_already.ROOT / "csrc")


def compiling(source: str, *flags: str) -> list[str]:
    return ["-O3", *flags, "-o", "a.o", "-c", f"{source}/a.cpp"]


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler")
def test_only_what_the_same_command_has_made_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made.o"
    made.write_text("made here")
    monkeypatch.setattr(compiled_already, "_made", lambda: iter([(meaning(compiling(HERE), HERE), made)]))
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").write_text("int a() { return 1; }")
    compiler, log = compiler_for(tmp_path, tmp_path)
    for flags, given in ((("-DNDEBUG",), False), ((), True)):
        subprocess.run([compiler, *compiling(f"{tmp_path}/csrc", *flags)], cwd=tmp_path, check=True)
        assert ((tmp_path / "a.o").read_bytes() == b"made here") == given
    assert log.read_text() == f"{made}\n"


def test_a_library_is_the_same_wherever_it_goes() -> None:
    linking = [["-flto", "-shared", "-o", f"{folder}lib.so", "a.o"] for folder in ("", "/anywhere/")]
    assert meaning(linking[0], HERE) == meaning(linking[1], HERE)
    assert meaning(linking[0][1:], HERE) != meaning(linking[1], HERE)
