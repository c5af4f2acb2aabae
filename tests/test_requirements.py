"""What the Makefile installs: an extra that names others brings theirs."""

from __future__ import annotations

from pathlib import Path

from tools.requirements import requirements

PYPROJECT = """
[build-system]
requires = ["builder"]
[project]
name = "grove"
dependencies = ["always"]
[project.optional-dependencies]
one = ["first>=1"]
two = ["second", "grove[one]"]
dev = ["grove[one, two]", "third"]
"""


def test_extras_join_one_another(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert requirements(tmp_path / "pyproject.toml", []) == ["builder", "always"]
    assert requirements(tmp_path / "pyproject.toml", ["dev"]) == ["builder", "always", "first>=1", "second", "third"]
