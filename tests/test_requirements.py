"""What the Makefile and the images install: an extra that names others brings theirs."""

from __future__ import annotations

from pathlib import Path

from tools.requirements import requirements

PYPROJECT = """
[build-system]
requires = ["builder"]
[project]
name = "grove"
dependencies = ["always", "Torch >=2"]
[project.optional-dependencies]
one = ["first>=1"]
two = ["second", "grove[one]"]
dev = ["grove[one, two]", "third"]
"""


def test_extras_join_one_another(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert requirements(tmp_path / "pyproject.toml", []) == ["builder", "always", "Torch >=2"]
    listed = requirements(tmp_path / "pyproject.toml", ["dev"])
    assert listed == ["builder", "always", "Torch >=2", "first>=1", "second", "third"]


def test_images_take_one_part(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert requirements(tmp_path / "pyproject.toml", [], "build") == ["builder"]
    assert requirements(tmp_path / "pyproject.toml", ["one"], "run") == ["always", "Torch >=2", "first>=1"]
    assert requirements(tmp_path / "pyproject.toml", ["one"], "router") == ["always", "first>=1"]
