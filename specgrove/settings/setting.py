"""What a setting is, and how a parser of command lines gets it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag of a service. ``read`` turns its text into a value, or raises ``ValueError`` with what would be right.

    ``help`` is None for a flag that a command has, and does not list. ``default`` may be a function, for what depends on the machine.
    ``is_shared``: services that have it take the same value; ``specgrove serve`` has one flag for all of them.
    ``is_of_suite``: ``specgrove serve`` sets it itself, or has a flag of its own for it.
    """

    name: str
    help: str | None
    default: Any = None
    read: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    is_switch: bool = False
    is_repeatable: bool = False
    is_shared: bool = False
    is_of_suite: bool = False

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name}"

    @property
    def attribute(self) -> str:
        """Its name in the parsed command line."""
        return self.name.replace("-", "_")


def add_settings(parser: Any, settings: Sequence[Setting], *, has_defaults: bool = True) -> None:
    """Adds the flags to a parser or a group of one. Without defaults, what was not given is ``None``."""
    for setting in settings:
        options: dict[str, Any] = {"help": setting.help or argparse.SUPPRESS, "dest": setting.attribute}
        usual = setting.default() if callable(setting.default) else setting.default
        default = usual if has_defaults else None
        if setting.is_switch:
            parser.add_argument(setting.flag, action="store_true", default=default, **options)
            continue
        if usual is not None and setting.help is not None:
            options["help"] += f" (default: {in_words(usual)})"
        if setting.is_repeatable:
            options["action"] = "append"
        parser.add_argument(
            setting.flag,
            type=typed(setting.read),
            default=default,
            choices=setting.choices,
            metavar=setting.metavar,
            **options,
        )


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse's ``type``, which hides the messages of ``ValueError``s."""

    def typed_read(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed_read


def in_words(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
