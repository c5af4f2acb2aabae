"""What a form is: it finds the first place in a text that holds calls, or may come to hold some. Used by ``reader``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router.http.tool_calls.json_scan import JsonScan


@dataclass(frozen=True, slots=True)
class Call:
    """``arguments`` is JSON in a text, as in OpenAI's API."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a text stands in its output: whether only calls and blanks came before it, and whether nothing comes after it.

    ``json`` knows the JSON that begins in the text, from the pieces before.
    """

    is_leading: bool = False
    is_end: bool = False
    json: JsonScan = field(default_factory=JsonScan)


@dataclass(frozen=True, slots=True)
class Found:
    """From ``start`` to ``end`` the text is calls or, where there are none, text as any other.

    Without ``end`` that is not known yet: what is from ``start`` on waits for more. A ``start`` at the text's end is nothing found.
    ``calls`` without ``end`` have begun: with more text they have the same names, and arguments that begin with these.
    """

    start: int
    end: int | None = None
    calls: tuple[Call, ...] = ()


class Form(Protocol):
    """A way to write calls. Immutable."""

    def find(self, text: str, position: Position) -> Found:
        """The first place."""
        ...


def as_begun(begun: Sequence[Call], read: Sequence[Call]) -> tuple[Call, ...]:
    """The calls that were read of a whole text, where those that have begun in it stay what clients have been told."""
    told = itertools.zip_longest(begun, read[: len(begun)])
    kept = (whole if whole is not None and _goes_on(call, whole) else call for call, whole in told)
    return (*kept, *read[len(begun) :])


def _goes_on(begun: Call, whole: Call) -> bool:
    return whole.name == begun.name and whole.arguments.startswith(begun.arguments)


def marker_start(text: str, marker: str) -> int:
    """Where a marker begins: the whole of it, or at the text's end a part of it; else the text's length."""
    start = text.find(marker)
    return start if start >= 0 else part_start(text, marker)


def part_start(text: str, marker: str) -> int:
    """Where at the text's end a part of a marker begins, but not all of it; else the text's length."""
    longest = min(len(marker) - 1, len(text))
    begun = next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
    return len(text) - begun


def after_blanks(text: str, start: int) -> int:
    """Where the next character is that is no blank; the text's length where there is none."""
    return len(text) - len(text[start:].lstrip())
