"""A compiler for a copy of this checkout that gives what the same command has made of the same sources here: nothing is compiled twice.

``make setup`` has compiled the kernels. ``tests/test_packages.py`` builds a wheel of the same bytes with this compiler. A command that
differs in anything but its folders is run as it is, with less of the optimiser's work; so is all where nothing was built here with
ninja, or where sources are newer.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

_COMPILER = """#!{python} -S
import json, os, shutil, sys
sys.path.append({tests!r})
from compiled_already import meaning
words = sys.argv[1:]
with open({table!r}) as file:
    made = json.load(file).get(json.dumps(meaning(words, {csrc!r})))
if made is None:
    os.execvp({compiler!r}, [{compiler!r}, *(word.replace("-O3", "-O1") for word in words)])
shutil.copy(made, words[words.index("-o") + 1])
with open({log!r}, "a") as file:
    print(made, file=file)
"""


def meaning(words: Sequence[str], csrc: str) -> list[str]:
    """A compiler's arguments: whichever folder the sources lie in, and wherever a library goes."""
    found = [word.replace(csrc, "CSRC") for word in words]
    if "-shared" in found:
        library = found.index("-o") + 1
        found[library] = Path(found[library]).name
    return found


def compiler_for(source: Path, folder: Path) -> tuple[Path, Path]:
    """In ``folder``: a compiler for ``source``, which has the same ``csrc`` as this checkout, and its list of what it gave."""
    compiler, log = folder / "compiler", folder / "given"
    (folder / "table.json").write_text(json.dumps({json.dumps(words): str(made) for words, made in _made()}))
    log.touch()
    program = _COMPILER.format(
        python=sys.executable, tests=str(ROOT / "tests"), table=str(folder / "table.json"), csrc=str(source / "csrc"),
        compiler=os.environ.get("CXX", "c++"), log=str(log),
    )  # fmt: skip
    compiler.write_text(program)
    compiler.chmod(0o755)
    return compiler, log


def _made() -> Iterator[tuple[list[str], Path]]:
    """What the commands of builds in this checkout mean, and what they have made of the sources as they are."""
    changed_s = max(file.stat().st_mtime for file in (ROOT / "csrc").rglob("*"))
    for build in sorted(ROOT.glob("build/*/build.ninja")) if shutil.which("ninja") else []:
        listed = subprocess.run(
            ["ninja", "-C", build.parent, "-t", "commands"], capture_output=True, text=True, check=False
        )
        for line in listed.stdout.splitlines():
            for command in line.split(" && "):
                words = shlex.split(command)[1:]
                if "-o" in words:
                    made = build.parent / words[words.index("-o") + 1]
                    if made.exists() and made.stat().st_mtime > changed_s:
                        yield meaning(words, str(ROOT / "csrc")), made
