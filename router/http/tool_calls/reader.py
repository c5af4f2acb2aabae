"""Reads an output's text as it comes, and takes the calls out of it. One object per output."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from router.http.tool_calls.forms import Form, Found, Position
from router.http.tool_calls.json_scan import JsonScan

# Mistral's templates take ids of exactly nine letters and digits; all others take any.
_ID_LEN = 9
_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is JSON in a text, as in OpenAI's API; ``number`` counts the calls of one output."""

    number: int
    id: str
    name: str
    arguments: str


class ToolCallReader:
    """Blanks around calls are the form's, not the text's."""

    def __init__(self, forms: Sequence[Form], *, may_be_many: bool) -> None:
        """Unless there ``may_be_many``, an output ends with its first call: what follows is left out."""
        self._forms = forms
        self._may_be_many = may_be_many
        self._held = ""
        self._json = JsonScan()
        self._is_behind_call = False
        self._is_leading = True
        self.num_calls = 0

    def add(self, text: str, *, is_end: bool = False) -> tuple[str, list[ToolCall]]:
        """The text that is certain now, and the calls that are complete."""
        certain: str = ""
        calls: list[ToolCall] = []
        if self.num_calls and not self._may_be_many:
            return certain, calls
        self._held += text
        while (found := self._first(is_end)).end is not None:
            if not found.calls:
                certain += self._take(found.end)
                continue
            certain += self._take(found.start).rstrip()
            self._cut(found.end - found.start)
            self._is_behind_call = True
            for call in found.calls if self._may_be_many else found.calls[:1]:
                calls.append(ToolCall(self.num_calls, _new_id(), call.name, call.arguments))
                self.num_calls += 1
            if not self._may_be_many:
                return certain, calls
        # The blanks before a call are held back with it.
        return certain + self._take(len(self._held) if is_end else len(self._held[: found.start].rstrip())), calls

    def _first(self, is_end: bool) -> Found:
        position = Position(self._is_leading, is_end, self._json)
        places = [form.find(self._held, position) for form in self._forms]
        # Of two that begin together, the one that knows already what it is.
        return min(places, key=lambda found: (found.start, found.end is None), default=Found(len(self._held)))

    def _take(self, size: int) -> str:
        text = self._cut(size)
        if text.strip():
            self._is_leading = False
        if self._is_behind_call:
            text = text.lstrip()
            self._is_behind_call = not text
        return text

    def _cut(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        if text:
            self._json.forget()
        return text


def _new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LEN))
