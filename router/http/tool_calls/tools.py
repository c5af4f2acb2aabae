"""The tools that a request shows to the model: their names, and what their parameters are. Used by the forms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from router.http.tool_calls.json_calls import parsed


class Tools:
    """Immutable. Tools that are not described as OpenAI's API has it are taken for nothing."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [_mapping(tool.get("function")) or tool for tool in tools]
        self._parameters = {
            name: _mapping(_mapping(function.get("parameters")).get("properties"))
            for function in functions
            if isinstance(name := function.get("name"), str)
        }

    @property
    def names(self) -> Collection[str]:
        """The names of all tools."""
        return self._parameters.keys()

    def value_of(self, tool: str, parameter: str, text: str) -> object:
        """A value that stands in the text as it is: JSON where the parameter is described so, else a text."""
        types = _types_of(_mapping(self._parameters.get(tool)).get(parameter))
        if text.strip() in ("null", "None") and "null" in types:
            return None
        if not types or "string" in types:
            return text
        try:
            # Python's names of truth values are written, too.
            return parsed(text.lower() if types == {"boolean"} else text)
        except (ValueError, RecursionError):
            return text


def _types_of(schema: object) -> set[str]:
    schema = _mapping(schema)
    types = schema.get("type", [])
    found = set(map(str, types if isinstance(types, list) else [types]))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        for choice in choices if isinstance(choices, list) else ():
            found |= _types_of(choice)
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
