"""Calls that are JSON in the text: as the whole of an answer (Llama 3), or in blocks of code (Qwen2.5-Coder). Used by ``formats``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from router.http.tool_calls.forms import Found, Position, after_blanks, as_begun, marker_start
from router.http.tool_calls.json_calls import begun_calls, calls_of, may_become_call

_FENCE = "```"


@dataclass(frozen=True, slots=True)
class LeadingJson:
    """The answer is JSON, or several objects with ``;`` between. Only names that are ``known`` make it a call."""

    known: Collection[str]

    def find(self, text: str, position: Position) -> Found:
        """Only at the beginning of an output, or behind calls."""
        nothing = Found(len(text))
        if not position.is_leading:
            return nothing
        start = len(text) - len(text.lstrip("; \t\r\n"))
        if start == len(text):
            return Found(0)
        if text[start] != "{" or not may_become_call(text, start):
            return nothing
        end = position.json.end(text, start)
        begun = begun_calls(text[:end], start, self.known, position.json)
        if end is None:
            return Found(0, len(text) if begun and position.is_end else None, begun)
        return Found(0, end, as_begun(begun, calls_of(text[start:end], self.known)))


@dataclass(frozen=True, slots=True)
class MarkedJson:
    """JSON behind a marker that nothing else has. Further objects follow with ``;`` between.

    A name needn't be ``known``, but then its call comes whole.
    """

    marker: str
    known: Collection[str]

    def find(self, text: str, position: Position) -> Found:
        """At the marker."""
        start = marker_start(text, self.marker)
        behind = start + len(self.marker)
        json_start = after_blanks(text, behind)
        if json_start >= len(text):
            return Found(start)
        if text[json_start] != "{":
            return Found(start, behind)
        end = position.json.end(text, json_start)
        begun = begun_calls(text[:end], json_start, self.known, position.json)
        if end is None:
            return Found(start, len(text) if begun and position.is_end else None, begun)
        return Found(start, end, as_begun(begun, calls_of(text[json_start:end])))


@dataclass(frozen=True, slots=True)
class JsonBlock:
    """A block of code, ```` ```json ````, that holds nothing but a call, or a list of some, of ``known`` names.

    What follows in the block can make it another thing, so its calls come whole.
    """

    known: Collection[str]

    def find(self, text: str, position: Position) -> Found:
        """The first block; one that can't be a call is let go as soon as that shows."""
        marker = f"{_FENCE}json"
        start = marker_start(text, marker)
        behind = start + len(marker)
        json_start = after_blanks(text, behind)
        if json_start >= len(text):
            return Found(start)
        if not may_become_call(text, json_start):
            return Found(start, behind)
        end = position.json.end(text, json_start)
        if end is None:
            return Found(start)
        calls = calls_of(text[json_start:end], self.known)
        rest = text[end:].lstrip()
        if not calls or not (rest.startswith(_FENCE) or _FENCE.startswith(rest)):
            return Found(start, end)
        if rest.startswith(_FENCE):
            return Found(start, text.index(_FENCE, end) + len(_FENCE), calls)
        return Found(start, len(text), calls) if position.is_end else Found(start)
