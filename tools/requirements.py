"""Prints the requirements of pyproject.toml, one a line: what building and running take, and the extras named.

Called by the Makefile, so that packages are installed in a stage of their own, before the build. Standard library only.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Without the project itself, which extras may name to join one another."""
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    found = [*content["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [requirement for requirement in found if not requirement.startswith(f"{project['name']}[")]


if __name__ == "__main__":
    # Without blanks: the Makefile hands each line to pip as a word.
    print("\n".join(text.replace(" ", "") for text in requirements(Path("pyproject.toml"), sys.argv[1:])))
