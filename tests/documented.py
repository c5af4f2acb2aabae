"""The commands and the snippets of Python that README.md and the pages of docs/ show, for tests that try them.

A block of code is indented by four spaces or fenced. Its commands are the lines that begin with ``$`` or with a program of
``PROGRAMS``; what follows a line with ``$`` is what the page says is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (
    "aiperf", "bash", "buildah", "cat", "chmod", "cmake", "cp", "curl", "docker", "eval", "export", "go", "git", "grpcurl",
    "guidellm", "helm", "java", "kind", "kubectl", "kustomize", "lm_eval", "make", "mkdir", "node", "npm", "openssl", "pip", "podman",
    "prometheus", "promtool", "python", "python3", "rm", "sh", "smg", "source", "specgrove", "sudo", "torchrun",
)  # fmt: skip
_SHELLS = ("sh", "bash")
_FENCE = re.compile(r"^```(?P<language>\w*)")
_PROGRAM = re.compile(rf"^(?:\$ .+|(?:\.venv/bin/)?(?:{'|'.join(PROGRAMS)})(?: .*)?)$")
# README's table of first steps.
_IN_A_TABLE = re.compile(r"^\| curl \| `(?P<words>curl .*)` \|$")


@dataclass(frozen=True, slots=True)
class Block:
    """Code of a page; ``line`` is that of its first line of code, counted from 1."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line for a shell without its comment, and what the page shows as its output, if anything."""

    page: str
    words: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page}: {self.words}"


def blocks(page: Path) -> Iterator[Block]:
    """In their order; those with indents have the language ``""``."""
    name, lines = page.relative_to(ROOT).as_posix(), page.read_text().splitlines()
    first = 0
    while first < len(lines):
        after = first + 1
        if (fence := _FENCE.match(lines[first])) is not None:
            while not lines[after].startswith("```"):
                after += 1
            yield Block(name, first + 2, fence["language"], "\n".join(lines[first + 1 : after]) + "\n")
            after += 1
        elif lines[first].startswith("    ") and (first == 0 or not lines[first - 1]):
            while after < len(lines) and (lines[after].startswith("    ") or not lines[after]):
                after += 1
            yield Block(name, first + 1, "", "\n".join(line[4:] for line in lines[first:after]).rstrip() + "\n")
        elif (found := _IN_A_TABLE.match(lines[first])) is not None:
            yield Block(name, first + 1, "sh", found["words"] + "\n")
        first = after


def commands() -> list[Command]:
    """Of all pages."""
    return [command for page in PAGES for block in blocks(page) for command in _commands_of(block)]


def unknown_lines() -> list[str]:
    """Of blocks for shells: lines that are no command that is known here."""
    shells = [block for page in PAGES for block in blocks(page) if block.language in _SHELLS]
    lines = [line for block in shells for line in block.text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and _PROGRAM.match(line) is None]


def snippets() -> list[Block]:
    """The Python of all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language == "python"]


def _commands_of(block: Block) -> Iterator[Command]:
    if block.language not in ("", *_SHELLS):
        return
    words, output = "", ""
    for line in block.text.replace("\\\n", " ").splitlines():
        if _PROGRAM.match(line) is None:
            output += line + "\n"
            continue
        if words:
            yield Command(block.page, words, output.strip("\n"))
        # A sign of comments within quotes would have no blanks before it.
        words, output = re.sub(r"\s+", " ", re.sub(r"\s+#\s.*$", "", line)).removeprefix("$ "), ""
    if words:
        yield Command(block.page, words, output.strip("\n"))
