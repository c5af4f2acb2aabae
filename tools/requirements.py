"""Prints the requirements of pyproject.toml, one a line: what building and running take, and the extras named.

Called by the Makefile, so that packages are installed in a stage of their own, before the build. Standard library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Where an extra names the project itself with other extras, theirs are listed in its place."""
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    own = re.compile(rf"{project['name']}\[(?P<extras>.*)\]")

    def of(extra: str) -> list[str]:
        found = []
        for requirement in project["optional-dependencies"][extra]:
            joined = own.fullmatch(requirement)
            found += (
                [requirement] if joined is None else [r for e in joined["extras"].split(",") for r in of(e.strip())]
            )
        return found

    listed = [*content["build-system"]["requires"], *project["dependencies"]]
    return list(dict.fromkeys([*listed, *(requirement for extra in extras for requirement in of(extra))]))


if __name__ == "__main__":
    # Without blanks: the Makefile hands each line to pip as a word.
    print("\n".join(text.replace(" ", "") for text in requirements(Path("pyproject.toml"), sys.argv[1:])))
