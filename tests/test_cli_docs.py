"""docs/cli.md names all commands, and no option that there isn't."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from specgrove.cli.arguments import parser

TEXT = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()


def commands(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a command, such as ``train`` of ``ssm``."""
    actions = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: command for action in actions for name, command in action.choices.items()}


def options(of: argparse.ArgumentParser) -> set[str]:
    """Its own, and those of its commands."""
    return set(of._option_string_actions).union(*map(options, commands(of).values()))


def test_each_command_is_there() -> None:
    assert [name for name in commands(parser()) if f"`{name}`" not in TEXT and f"## {name}" not in TEXT] == []


def test_each_option_that_is_named_is_there() -> None:
    known = options(parser())
    # A dash that begins a word; "--" alone is a table's line.
    named = set(
        re.findall(r"(?<![\w-])(?:--[a-z0-9]|-[a-z])[\w:-]*", re.sub(r"^ {4}\{.*$", "", TEXT, flags=re.MULTILINE))
    )
    assert named - known == set()
