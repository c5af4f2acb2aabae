"""Mistral's calls: ``[TOOL_CALLS]`` and a list in JSON, or since its tokenizer v11 a name and its arguments. Used by ``formats``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from router.http.tool_calls.forms import Call, Found, Position, after_blanks, as_begun, marker_start
from router.http.tool_calls.json_calls import begins_object, begun_calls, calls_of, is_object

MARKERS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
_MARKER = MARKERS[0]
_MAX_HEAD_LEN = 256
# The name, perhaps an id, and where the arguments begin.
_HEAD = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?(?=\{)")


@dataclass(frozen=True, slots=True)
class MistralForm:
    """What is behind the marker tells which of the two it is. A name needn't be ``known``, but then a call comes whole."""

    known: Collection[str]

    def find(self, text: str, position: Position) -> Found:
        """At the first marker."""
        start = marker_start(text, _MARKER)
        inner = after_blanks(text, start + len(_MARKER))
        if inner >= len(text):
            return Found(start)
        no_call = Found(start, start + len(_MARKER))
        json_start, name = inner, None
        if text[inner] != "[":
            head = _HEAD.match(text, inner)
            if head is None:
                return no_call if len(text) - inner > _MAX_HEAD_LEN else Found(start)
            json_start, name = head.end(), head[1]
        end = position.json.end(text, json_start)
        begun = self._begun(text[:end], json_start, name, position)
        if end is None:
            return Found(start, len(text) if begun and position.is_end else None, begun)
        content = text[json_start:end]
        read = calls_of(content) if name is None else (Call(name, content),) if is_object(content) else ()
        calls = as_begun(begun, read)
        return Found(start, end, calls) if calls else no_call

    def _begun(self, text: str, json_start: int, name: str | None, position: Position) -> tuple[Call, ...]:
        if name is None:
            return begun_calls(text, json_start, self.known, position.json)
        is_begun = name in self.known and begins_object(text, json_start)
        return (Call(name, text[json_start:]),) if is_begun else ()
