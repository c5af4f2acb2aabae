"""Reads an output's text as it comes, and takes the calls out of it. One object per output."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from router.http.tool_calls.forms import Call, Form, Found, Position
from router.http.tool_calls.json_scan import JsonScan

# Mistral's templates take ids of exactly nine letters and digits; all others take any.
_ID_LEN = 9
_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class CallHead:
    """A call begins; ``number`` counts those of one output."""

    number: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments of the call that began last. Together they are JSON in a text, as in OpenAI's API."""

    number: int
    text: str


CallPiece = CallHead | CallArguments


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole one."""

    id: str
    name: str
    arguments: str


def whole_calls(pieces: Iterable[CallPiece]) -> list[ToolCall]:
    """What the pieces of an output add up to."""
    calls: list[ToolCall] = []
    for piece in pieces:
        if isinstance(piece, CallHead):
            calls.append(ToolCall(piece.id, piece.name, ""))
        else:
            calls[-1] = ToolCall(calls[-1].id, calls[-1].name, calls[-1].arguments + piece.text)
    return calls


class ToolCallReader:
    """Where there is nothing but blanks before, between or behind calls, they are the form's; all other blanks are the text's."""

    def __init__(self, forms: Sequence[Form], *, may_be_many: bool) -> None:
        """Unless there ``may_be_many``, an output ends with its first call: what follows is left out."""
        self._forms = forms
        self._may_be_many = may_be_many
        self._held = ""
        self._blanks = ""  # since the output's beginning or the last call, where nothing else came
        self._has_text = False
        self._json = JsonScan()
        self._is_leading = True
        self._is_over = False
        self._num_told: list[int] = []  # characters of the arguments, of each call that has begun in the held text
        self.num_calls = 0

    def add(self, text: str, *, is_end: bool = False) -> tuple[str, list[CallPiece]]:
        """The text that is certain now, and what is new of calls: they come behind it."""
        certain: str = ""
        pieces: list[CallPiece] = []
        if self._is_over:
            return certain, pieces
        self._held += text
        while (found := self._first(is_end)).calls or found.end is not None:
            certain += self._take(found.start if found.calls else found.end or 0)
            if not found.calls:
                continue
            pieces += self._new_of(found.calls)
            if found.end is None:
                return certain, pieces
            self._end_calls(found.end - found.start)
            if not self._may_be_many:
                return certain, pieces
        certain += self._take(len(self._held) if is_end else found.start)
        return certain + (self._blanks if is_end and not self.num_calls else ""), pieces

    def _first(self, is_end: bool) -> Found:
        position = Position(self._is_leading, is_end, self._json)
        places = [form.find(self._held, position) for form in self._forms]
        # Of two that begin together, the one that knows already what it is.
        nothing = Found(len(self._held))
        return min(places, key=lambda found: (found.start, found.end is None and not found.calls), default=nothing)

    def _new_of(self, calls: Sequence[Call]) -> Iterator[CallPiece]:
        for index, call in enumerate(calls if self._may_be_many else calls[:1]):
            if index == len(self._num_told):
                yield CallHead(self.num_calls, _new_id(), call.name)
                self._num_told.append(0)
                self.num_calls += 1
            if new := call.arguments[self._num_told[index] :]:
                yield CallArguments(self.num_calls - len(self._num_told) + index, new)
                self._num_told[index] += len(new)

    def _end_calls(self, size: int) -> None:
        self._cut(size)
        self._num_told.clear()
        self._blanks, self._has_text = "", False
        self._is_over = not self._may_be_many

    def _take(self, size: int) -> str:
        text = self._blanks + self._cut(size)
        self._blanks = ""
        if self._has_text or text.strip():
            self._is_leading, self._has_text = False, True
            return text
        self._blanks = text
        return ""

    def _cut(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        if text:
            self._json.forget()
        return text


def _new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LEN))
