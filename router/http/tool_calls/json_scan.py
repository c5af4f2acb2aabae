"""Where JSON ends in a text that grows. Used by the forms, by way of their ``Position``."""

from __future__ import annotations

import re

# A string, which may be unfinished at the end of the text, or a bracket.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)|[{}\[\]]', re.DOTALL)
_DEPTHS = {"{": 1, "[": 1, "}": -1, "]": -1}


class JsonScan:
    """One per output: what was looked at is not looked at again with every piece, or long calls would take the event loop."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[int, int]] = {}  # by the start: how far it was read, and the depth there
        self._ends: dict[int, int] = {}

    def forget(self) -> None:
        """The text begins at another place now."""
        self._begun.clear()
        self._ends.clear()

    def end(self, text: str, start: int) -> int | None:
        """Where the object or list that begins at ``start`` ends; None where it doesn't yet."""
        if start in self._ends:
            return self._ends[start]
        place, depth = self._begun.get(start, (start, 0))
        for found in _STRING_OR_BRACKET.finditer(text, place):
            if _is_unfinished(found):
                break
            depth += _DEPTHS.get(found[0], 0)
            place = found.end()
            if depth == 0:
                self._ends[start] = place
                return place
        self._begun[start] = place, depth
        return None


def ends_in_string(text: str, start: int, end: int) -> bool:
    """Whether JSON that begins at ``start`` is within one of its strings at ``end``."""
    return any(map(_is_unfinished, _STRING_OR_BRACKET.finditer(text, start, end)))


def _is_unfinished(found: re.Match[str]) -> bool:
    return found[1] is not None and found[1] != '"'
