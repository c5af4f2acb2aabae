"""Calls between two tags (Hermes, Qwen, SmolLM), as JSON or as Qwen3-Coder's tags within tags. Used by ``formats``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from router.http.tool_calls.forms import Call, Found, Position, after_blanks, as_begun, marker_start, part_start
from router.http.tool_calls.json_calls import begins_object, is_object, written
from router.http.tool_calls.json_scan import JsonScan, ends_in_string
from router.http.tool_calls.tools import Tools

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>")
_PARAMETER_END = "</parameter>"
_END = re.compile(r"</function>\s*\Z")


@dataclass(frozen=True, slots=True)
class Tagged:
    """``read`` makes calls of what is between the tags, and none of what is no call. The start tag is a part of it ``with_tags``.

    ``begin`` finds, from a place on, the calls that have begun: see ``json_calls.begun_calls``.

    The last end tag may be missing: some models end their answer instead of it. One in a string of JSON is the string's.
    """

    start_tag: str
    end_tag: str
    read: Callable[[str], tuple[Call, ...]]
    begin: Callable[[str, int, JsonScan], tuple[Call, ...]]
    with_tags: bool = False

    def find(self, text: str, position: Position) -> Found:
        """The first pair of tags."""
        start = marker_start(text, self.start_tag)
        inner = start + len(self.start_tag)
        if inner > len(text):
            return Found(start)
        place = start if self.with_tags else inner
        inner_end = self._inner_end(text, inner)
        if inner_end >= 0:
            end = inner_end + len(self.end_tag)
            begun = self.begin(text[:inner_end], place, position.json)
            read = self.read(text[place:end] if self.with_tags else text[inner:inner_end])
            return Found(start, end, as_begun(begun, read))
        if position.is_end and (calls := as_begun(self.begin(text, place, position.json), self.read(text[place:]))):
            return Found(start, len(text), calls)
        # What may be the end tag's beginning waits.
        return Found(start, None, self.begin(text[: part_start(text, self.end_tag)], place, position.json))

    def _inner_end(self, text: str, inner: int) -> int:
        """-1 where it is not there yet."""
        end = text.find(self.end_tag, inner)
        is_json = text.startswith(("{", "["), after_blanks(text, inner))
        while is_json and end >= 0 and ends_in_string(text, inner, end):
            end = text.find(self.end_tag, end + 1)
        return end


def named_json_calls(text: str) -> tuple[Call, ...]:
    """Of ``<function=NAME>{...}</function>``, in which small Llamas write calls; or none."""
    function = _FUNCTION.match(text)
    if function is None:
        return ()
    arguments = text[function.end() :].removesuffix("</function>").rstrip()
    return (Call(function[1].strip(), arguments),) if is_object(arguments) else ()


def begun_named_json_calls(text: str, start: int, scan: JsonScan, *, tools: Tools) -> tuple[Call, ...]:
    """The call that has begun there."""
    function = _FUNCTION.match(text, start)
    if function is None or function[1].strip() not in tools.names or not begins_object(text, function.end()):
        return ()
    return (Call(function[1].strip(), text[function.end() : scan.end(text, function.end())]),)


def function_calls(text: str, tools: Tools) -> tuple[Call, ...]:
    """Of ``<function=NAME><parameter=NAME>VALUE</parameter>...</function>``, or none. Values are JSON where the tool's schema says so."""
    function = _FUNCTION.match(text)
    if function is None:
        return ()
    members, place = _members(text, function, tools)
    return (Call(function[1].strip(), f"{{{', '.join(members)}}}"),) if _END.match(text, place) else ()


def begun_function_calls(text: str, start: int, scan: JsonScan, *, tools: Tools) -> tuple[Call, ...]:
    """The call that has begun there, with the parameters that are complete: from the first on."""
    function = _FUNCTION.match(text, start)
    if function is None or function[1].strip() not in tools.names:
        return ()
    members, _ = _members(text, function, tools)
    return (Call(function[1].strip(), "{" + ", ".join(members)),) if members else ()


def _members(text: str, function: re.Match[str], tools: Tools) -> tuple[list[str], int]:
    """The arguments as members of a JSON object, and where they end. One that comes again counts the first time: it has been told."""
    members: dict[str, str] = {}
    place = function.end()
    while (parameter := _PARAMETER.match(text, place)) is not None:
        end = text.find(_PARAMETER_END, parameter.end())
        if end < 0:
            break
        name, value_text = parameter[1].strip(), text[parameter.end() : end].removeprefix("\n").removesuffix("\n")
        value = tools.value_of(function[1].strip(), name, value_text)
        members.setdefault(name, f"{written(name)}: {written(value)}")
        place = after_blanks(text, end + len(_PARAMETER_END))
    return list(members.values()), place
