"""JSON schemas whose patterns of property names are names that ``properties`` has, too: written so that llguidance can follow them.

It leaves those names out of a pattern, and where nothing is left of it asks for a further property all the same: an output ends in blanks
then (https://github.com/guidance-ai/llguidance/issues/265). Used by ``grammars``. Invariant: the same JSON is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NAMES = re.compile(r"\^(?:\((?:\?:)?([\w-]+(?:\|[\w-]+)*)\)|([\w-]+))\$")
# What holds values, and no schemas; and what holds schemas by names, which may be any.
_VALUES = ("const", "enum", "default", "examples")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


def without_named_patterns(schema: str) -> str:
    """The schema, as it is where there is nothing to change, or where it refers to a pattern's."""
    if "patternProperties" not in schema or "/patternProperties/" in schema:
        return schema
    try:
        given = json.loads(schema)
        changed = _changed(given)
        return schema if changed == given else json.dumps(changed, allow_nan=False)
    except (ValueError, RecursionError):
        return schema  # llguidance, or who asks it, says what is wrong


def _changed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_changed(element) for element in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {name: value if name in _VALUES else _changed_value(name, value) for name, value in schema.items()}
    if isinstance(made.get("properties"), dict) and isinstance(made.get("patternProperties"), dict):
        made["properties"], made["patternProperties"] = _divided(made["properties"], made["patternProperties"])
    return made


def _changed_value(name: str, value: Any) -> Any:
    if name in _MAPS and isinstance(value, dict):
        return {key: _changed(inner) for key, inner in value.items()}
    return _changed(value)


def _divided(properties: dict[str, Any], patterns: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both, with names that both have in the first alone; their values must fit both."""
    named, left = dict(properties), {}
    for pattern, schema in patterns.items():
        found = _NAMES.fullmatch(pattern)
        names = (found[1] or found[2]).split("|") if found else []
        for name in set(names) & named.keys():
            if named[name] != schema:
                named[name] = {"allOf": [named[name], schema]}
        others = [name for name in names if name not in properties]
        if not names or len(others) == len(names):
            left[pattern] = schema
        elif others:
            left[f"^({'|'.join(others)})$"] = schema
    return named, left
