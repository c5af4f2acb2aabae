"""Calls as JSON objects: ``{"name": ..., "arguments": {...}}``, with the names that models use. Used by the forms."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import NoReturn

from router.http.tool_calls.forms import Call, after_blanks
from router.http.tool_calls.json_scan import JsonScan

_ARGUMENT_NAMES = ("arguments", "parameters")
# The first name of an object that may be a call, which shows after so many characters, blanks among them.
_OPENING = re.compile(r'\[?\s*\{\s*"(name|type|arguments|parameters)"')
_OPENING_LEN = 48
_OBJECT = re.compile(r'\{\s*["}]')
# A call up to its arguments, behind what stands between two of them.
_HEAD = re.compile(
    r'\s*[,;]?\s*(?P<object>\{)\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{\s*["}])'
)


def calls_of(text: str, known: Collection[str] | None = None) -> tuple[Call, ...]:
    """The calls that a text is, one or a list; none where it is anything else.

    With ``known``, for JSON that nothing marks as a call, arguments are needed, and a name that is one of these.
    """
    try:
        values = parsed(text)
    except (ValueError, RecursionError):
        return ()
    calls = [_call_of(value, known) for value in (values if isinstance(values, list) else [values])]
    return tuple(call for call in calls if call is not None) if None not in calls else ()


def begun_calls(text: str, start: int, known: Collection[str], scan: JsonScan) -> tuple[Call, ...]:
    """Of JSON that begins at ``start``: the calls of ``known`` names whose arguments have begun, as they stand in the text so far.

    What has begun is a call, whatever follows: that is how it can be told piece by piece. Arguments of the last one may be unfinished.
    """
    place = after_blanks(text, start)
    place += text.startswith("[", place)
    calls: list[Call] = []
    while (head := _HEAD.match(text, place)) is not None and head["name"] in known:
        arguments_end = scan.end(text, head.end())
        calls.append(Call(head["name"], text[head.end() : arguments_end]))
        object_end = None if arguments_end is None else scan.end(text, head.start("object"))
        if object_end is None:
            break
        place = object_end
    return tuple(calls)


def begins_object(text: str, start: int) -> bool:
    """Whether a JSON object with a name, or without any, begins there."""
    return _OBJECT.match(text, start) is not None


def _call_of(value: object, known: Collection[str] | None) -> Call | None:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str) or not _is_unicode(name):
        return None
    given = [value[key] for key in _ARGUMENT_NAMES if key in value]
    if known is not None and (name not in known or not given):
        return None
    arguments = given[0] if given and given[0] is not None else {}
    if not isinstance(arguments, str):
        return Call(name, written(arguments))
    return Call(name, arguments) if _is_unicode(arguments) else None


def parsed(text: str) -> object:
    """A value of JSON. Raises ``ValueError`` for what other languages don't read, too, and ``RecursionError``."""
    return json.loads(text, parse_constant=_no_number)


def is_object(text: str) -> bool:
    """Whether a text is a JSON object that clients can be sent."""
    try:
        return isinstance(parsed(text), dict) and _is_unicode(text)
    except (ValueError, RecursionError):
        return False


def written(value: object) -> str:
    """A value as JSON. Halves of characters, which models may write as such, stay escaped: no client could be sent them."""
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_unicode(text) else json.dumps(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def may_become_call(text: str, start: int) -> bool:
    """Whether the JSON that begins at ``start`` may be a call, or a list of some, by what there is of it."""
    opening = text[start : start + _OPENING_LEN]
    if len(opening) == _OPENING_LEN or opening.count('"') > 1:
        return _OPENING.match(opening) is not None
    return opening[:1] in ("", "{", "[")
