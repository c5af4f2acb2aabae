"""Calls between two tags (Hermes, Qwen, SmolLM), as JSON or as Qwen3-Coder's tags within tags. Used by ``formats``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from router.http.tool_calls.forms import Call, Found, Position, after_blanks, marker_start
from router.http.tool_calls.json_calls import is_object, written
from router.http.tool_calls.json_scan import ends_in_string
from router.http.tool_calls.tools import Tools

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>\s*", re.DOTALL)
_END = re.compile(r"</function>\s*\Z")


@dataclass(frozen=True, slots=True)
class Tagged:
    """``read`` makes calls of what is between the tags, and none of what is no call. The tags are parts of it ``with_tags``.

    The last end tag may be missing: some models end their answer instead of it. One in a string of JSON is the string's.
    """

    start_tag: str
    end_tag: str
    read: Callable[[str], tuple[Call, ...]]
    with_tags: bool = False

    def find(self, text: str, position: Position) -> Found:
        """The first pair of tags."""
        start = marker_start(text, self.start_tag)
        inner = start + len(self.start_tag)
        if inner > len(text):
            return Found(start)
        inner_end = self._inner_end(text, inner)
        if inner_end >= 0:
            end = inner_end + len(self.end_tag)
            return Found(start, end, self.read(text[start:end] if self.with_tags else text[inner:inner_end]))
        if position.is_end and (calls := self.read(text[start:] if self.with_tags else text[inner:])):
            return Found(start, len(text), calls)
        return Found(start)

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


def function_calls(text: str, tools: Tools) -> tuple[Call, ...]:
    """Of ``<function=NAME><parameter=NAME>VALUE</parameter>...</function>``, or none. Values are JSON where the tool's schema says so."""
    function = _FUNCTION.match(text)
    if function is None:
        return ()
    name, place = function[1].strip(), function.end()
    arguments = {}
    while parameter := _PARAMETER.match(text, place):
        value = parameter[2].removeprefix("\n").removesuffix("\n")
        arguments[parameter[1].strip()] = tools.value_of(name, parameter[1].strip(), value)
        place = parameter.end()
    if not _END.match(text, place):
        return ()
    return (Call(name, written(arguments)),)
