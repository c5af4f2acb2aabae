"""Prints the requirements of pyproject.toml, one a line: what building and running take, and the extras named.

Called by the Makefile and by the images' Containerfile, so that packages are installed in a stage of their own, before the build.
Standard library only.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

# What only running models takes: nothing that the router or a client imports. It is most of what an image weighs.
MODEL_PACKAGES = frozenset({"torch"})
PARTS = ("build", "run", "router")


def requirements(pyproject: Path, extras: list[str], part: str | None = None) -> list[str]:
    """``build`` and ``run`` unless one part is named; ``router`` is ``run`` without what runs models.

    Where an extra names the project itself with other extras, theirs are listed in its place.
    """
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

    building = [] if part in ("run", "router") else content["build-system"]["requires"]
    running = [] if part == "build" else [*project["dependencies"], *(r for extra in extras for r in of(extra))]
    listed = dict.fromkeys([*building, *running])
    return [r for r in listed if part != "router" or name_of(r) not in MODEL_PACKAGES]


def name_of(requirement: str) -> str:
    """The package that a requirement names, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="also what this extra takes")
    parser.add_argument("--part", choices=PARTS, help="of one part alone; router: of running without models")
    arguments = parser.parse_args()
    # Without blanks: the Makefile hands each line to pip as a word.
    print(
        "\n".join(
            text.replace(" ", "") for text in requirements(Path("pyproject.toml"), arguments.extras, arguments.part)
        )
    )


if __name__ == "__main__":
    main()
