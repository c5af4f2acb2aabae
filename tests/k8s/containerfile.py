"""Reads the images' Containerfile, as far as tests ask: its stages, what they are made from, and their instructions."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

CONTAINERFILE = Path(__file__).parents[2] / "k8s" / "images" / "Containerfile"
SHIPPED = ("router", "ssm-service", "llm-service")


@dataclass(frozen=True)
class Stage:
    """``origin`` is what FROM names; instructions are (word, rest) in their order, with lines joined."""

    name: str
    origin: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, word: str) -> list[str]:
        """What follows each instruction of this kind."""
        return [rest for name, rest in self.instructions if name == word]

    def pairs(self, word: str) -> dict[str, str]:
        """NAME=VALUE words of LABEL, ENV or ARG; an ARG without a value has an empty one."""
        words = [w for rest in self.all(word) for w in shlex.split(rest)]
        return {name: value for name, _, value in (w.partition("=") for w in words)}


def read_stages(text: str) -> dict[str, Stage]:
    """By name, in the file's order. What stands before the first FROM is left out."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            origin, _, name = rest.split()
            stages[name] = Stage(name, origin, ())
        elif stages:
            last = next(reversed(stages.values()))
            stages[last.name] = Stage(last.name, last.origin, (*last.instructions, (word, rest.strip())))
    return stages


def line_of(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stages whose layers ``name`` has, the first one first."""
    stage = stages[name]
    return [*(line_of(stages, stage.origin) if stage.origin in stages else []), stage]
