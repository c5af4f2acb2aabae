"""Compilers that can't build csrc are told so by name, before the first file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / "csrc" / "compiler.cmake"


@pytest.mark.parametrize(
    ("compiler", "version", "is_refused"),
    [("GNU", "10.2.1", True), ("GNU", "9.4.0", True), ("GNU", "11.1.0", False), ("GNU", "12.2.0", False), ("Clang", "9.0", False)],
)  # fmt: skip
def test_an_old_gcc_is_refused(compiler: str, version: str, is_refused: bool) -> None:
    known = {
        "CMAKE_CXX_COMPILER_ID": compiler,
        "CMAKE_CXX_COMPILER_VERSION": version,
        "CMAKE_CXX_COMPILER": "/usr/bin/c++",
    }
    done = subprocess.run(
        ["cmake", *(f"-D{name}={value}" for name, value in known.items()), "-P", str(CHECK)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == is_refused, done.stderr
    if is_refused:
        words = " ".join(done.stderr.split())
        assert f"GCC 11 or later is needed, /usr/bin/c++ is GCC {version}" in words
        assert "CXX=g++-11" in words
