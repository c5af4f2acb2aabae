"""What a setting is, and how a parser of command lines gets it."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specgrove.settings.values import Kind, in_words


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a service. ``read`` turns its text into a value, or raises ``ValueError`` with what would be right.

    ``default`` may be a function, for what depends on the machine; ``None`` is a value that is not set.
    ``is_shared``: services that have it take the same value, unless one is given its own.
    ``is_of_suite``: ``specgrove serve`` sets it itself. ``short`` is its short flag there, where that is not its own name.
    ``is_common``: all commands that start a suite list it. ``default_in_words`` tells a default that depends on the machine.
    """

    name: str
    help: str
    default: Any = None
    read: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    is_switch: bool = False
    is_repeatable: bool = False
    is_shared: bool = False
    is_of_suite: bool = False
    short: str | None = None
    is_common: bool = False
    default_in_words: str | None = None

    @property
    def flag(self) -> str:
        """As it is typed for its service."""
        return f"--{self.name}"

    @property
    def attribute(self) -> str:
        """Its name in the parsed command line of its service."""
        return attribute_of(self.name)

    @property
    def default_value(self) -> Any:
        """On this machine."""
        return self.default() if callable(self.default) else self.default

    @property
    def allowed(self) -> str:
        """Its values in words, with their unit and range."""
        if self.choices is not None:
            return ", ".join(self.choices)
        if self.is_switch:
            return "true, false"
        return self.read.allowed if isinstance(self.read, Kind) else "a text"

    @property
    def schema(self) -> Mapping[str, Any]:
        """Its values in JSON schema."""
        if self.choices is not None:
            return {"enum": list(self.choices)}
        if self.is_switch:
            return {"type": "boolean"}
        return self.read.schema if isinstance(self.read, Kind) else {"type": "string"}

    def value_of(self, text: str) -> Any:
        """Raises ``ValueError``, also for what is none of the choices."""
        if self.choices is not None and text not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}, got {text!r}")
        return self.read(text)

    def in_words(self, value: Any) -> str:
        """A value as it is typed."""
        return self.read.write(value) if isinstance(self.read, Kind) else in_words(value)


def add_settings(parser: Any, settings: Sequence[Setting], *, has_defaults: bool = True) -> None:
    """Adds the flags to a parser or a group of one. Without defaults, what was not given is ``None``."""
    for setting in settings:
        add_flag(parser, setting, setting.name, has_default=has_defaults)


def add_flag(
    parser: Any, setting: Setting, name: str, *, has_default: bool = False, is_listed: bool = True, note: str = ""
) -> None:
    """Adds one setting as ``--name``. One that is not listed is taken all the same. ``note`` comes after its help."""
    default = setting.default_value
    help_text = argparse.SUPPRESS
    if is_listed:
        shown = "" if default is None or setting.is_switch else f" (default: {setting.in_words(default)})"
        help_text = f"{setting.help}{note}{shown}"
    options: dict[str, Any] = {
        "dest": attribute_of(name),
        "help": help_text,
        "default": default if has_default else None,
    }
    if setting.is_switch:
        # With a flag for "no", too: what a file says can be taken back.
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **options)
        return
    if setting.is_repeatable:
        options["action"] = "append"
    parser.add_argument(
        f"--{name}", type=typed(setting.read), choices=setting.choices, metavar=setting.metavar, **options
    )


def attribute_of(name: str) -> str:
    """A flag's name in a parsed command line."""
    return name.replace("-", "_")


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse's ``type``, which hides the messages of ``ValueError``s."""

    def typed_read(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed_read


def nearest(name: str, known: Iterable[str]) -> str:
    """For the text of an error: the name that was perhaps meant, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
