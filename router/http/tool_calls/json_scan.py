"""Where JSON ends in a text that grows. Used by the forms, by way of their ``Position``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEPTHS = {"{": 1, "[": 1, "}": -1, "]": -1}
_QUOTE_OR_BRACKET = re.compile(r'["{}\[\]]')
# From within a string to its end, or as far as the text goes: there a backslash waits for what it escapes.
_REST_OF_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*("|(?=\\?\Z))', re.DOTALL)
# A string, which may be unfinished at the end of the text.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far JSON was read: so many brackets are open there."""

    place: int
    depth: int = 0
    in_string: bool = False


class JsonScan:
    """One per output: what was looked at is not looked at again with every piece, or long calls would take the event loop."""

    def __init__(self) -> None:
        self._begun: dict[int, _Reached] = {}  # by the start
        self._ends: dict[int, int] = {}

    def forget(self) -> None:
        """The text begins at another place now."""
        self._begun.clear()
        self._ends.clear()

    def end(self, text: str, start: int) -> int | None:
        """Where the object or list that begins at ``start`` ends; None where it doesn't yet."""
        if start in self._ends:
            return self._ends[start]
        reached = self._begun[start] = _read_on(text, self._begun.get(start, _Reached(start)))
        if reached.depth > 0 or reached.place == start:
            return None
        self._ends[start] = reached.place
        return reached.place


def _read_on(text: str, reached: _Reached) -> _Reached:
    """To the bracket that closes the first one, or as far as the text goes."""
    place, depth, in_string = reached.place, reached.depth, reached.in_string
    while True:
        if in_string:
            rest = _REST_OF_STRING.match(text, place)
            assert rest is not None  # it matches any text
            place, in_string = rest.end(), not rest[1]
            if in_string:
                return _Reached(place, depth, in_string=True)
        found = _QUOTE_OR_BRACKET.search(text, place)
        if found is None:
            return _Reached(len(text), depth)
        place, in_string = found.end(), found[0] == '"'
        depth += _DEPTHS.get(found[0], 0)
        if depth == 0 and not in_string:
            return _Reached(place)


def ends_in_string(text: str, start: int, end: int) -> bool:
    """Whether JSON that begins at ``start`` is within one of its strings at ``end``."""
    return any(string[1] != '"' for string in _STRING.finditer(text, start, end))
