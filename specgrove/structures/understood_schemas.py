"""JSON schemas as clients' programs write them, in the words that llguidance knows. Used by ``grammars`` and the grammar of calls.

Invariant: what the changed schema allows, the given one allows, too. It is narrower only where bounds are beyond what can be followed,
in the order of names that ``propertyNames`` lists, and in that ``uuid4`` and its like, which say nothing in JSON Schema, are ``uuid``.
What can't be said otherwise stays, and llguidance refuses it by its name.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from specgrove.structures.leading_conditions import without_conditions
from specgrove.structures.pattern_properties import without_named_patterns

# What holds values, and no schemas; and what holds schemas by names, which may be any.
_VALUES = ("const", "enum", "default", "examples")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# All others are notes for people, as JSON Schema has it: pydantic's ``path`` and ``binary``, OpenAPI's ``password``.
_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
# It counts in floats and in 64 bits.
_MAX_INTEGER = 2**63 - 1024
_MAX_NUMBER = 10**18
_MAX_COUNT = 2**32 - 1
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_URI_CHARACTERS = "!#$%&'()*+,-./:;=?@_~"
_APPLY_MORE = {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "additionalProperties"}
_NOTES = {"title", "description", "default", "examples", "$comment"}


def understood(schema: str) -> str:
    """The schema, as it is where there is nothing to change."""
    try:
        given = json.loads(schema)
        changed = _json(_changed(given, given))
        is_same = changed == _json(given)  # as texts, for 2.0 is 2
    except (ValueError, RecursionError):
        return schema  # llguidance, or who asks it, says what is wrong
    return without_named_patterns(schema if is_same else changed)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _changed(schema: Any, root: Any) -> Any:
    if isinstance(schema, list):
        return [_changed(element, root) for element in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {
        name: value if name in _VALUES else _inner(name, value, root)
        for name, value in schema.items()
        # Serialisers write all fields that a schema may have. A value may be null, a keyword can't.
        if value is not None or name in ("const", "default", "examples")
    }
    _change_counts(made)
    _change_bounds(made)
    _change_texts(made)
    _change_names(made, root)
    return made


def _inner(name: str, value: Any, root: Any) -> Any:
    if name in _MAPS and isinstance(value, dict):
        return {key: _changed(inner, root) for key, inner in value.items()}
    return _changed(value, root)


def _change_counts(made: dict[str, Any]) -> None:
    """``2.0`` is a whole number in JSON. No output is as long as the largest numbers of other languages' types."""
    for name in _COUNTS:
        value = made.get(name)
        if isinstance(value, float) and value.is_integer():
            value = made[name] = int(value)
        if type(value) is int and value > _MAX_COUNT:
            made[name] = _MAX_COUNT


def _change_bounds(made: dict[str, Any]) -> None:
    """The bounds of other languages' types, which hold more than can be followed."""
    types = made.get("type")
    is_whole = types == "integer" or (isinstance(types, list) and "integer" in types and "number" not in types)
    most = _MAX_INTEGER if is_whole else _MAX_NUMBER
    for name, is_beyond in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)):
        value = made.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and is_beyond * value > most:
            made[name] = is_beyond * most
    if is_whole:
        _give_end(made, _LOWER, _UPPER, 1)
        _give_end(made, _UPPER, _LOWER, -1)


def _give_end(made: dict[str, Any], begins: tuple[str, str], ends: tuple[str, str], sign: int) -> None:
    """Where whole numbers begin that have nearly as many digits as can be followed, they end with those that can be."""
    values = [value for name in begins if isinstance(value := made.get(name), (int, float))]
    if not made.keys() & set(ends) and any(_MAX_NUMBER <= sign * value <= _MAX_INTEGER for value in values):
        made[ends[0]] = sign * _MAX_INTEGER


def _change_texts(made: dict[str, Any]) -> None:
    form = made.get("format")
    if isinstance(form, str) and form not in _FORMATS:
        made.pop("format")
        if form in ("uuid1", "uuid3", "uuid4", "uuid5", "uuid6", "uuid7", "uuid8"):  # pydantic's
            made["format"] = "uuid"
    if isinstance(reference := made.get("$ref"), str):
        made["$ref"] = urllib.parse.quote(reference, safe=_URI_CHARACTERS)
    if isinstance(pattern := made.get("pattern"), str):
        first, *others = without_conditions(pattern)
        if others and isinstance(made.get("allOf", []), list):
            made["pattern"] = first
            made["allOf"] = [*made.get("allOf", []), *({"pattern": other} for other in others)]


def _change_names(made: dict[str, Any], root: Any) -> None:
    if "unevaluatedProperties" in made and not _APPLY_MORE & made.keys():
        made["additionalProperties"] = made.pop("unevaluatedProperties")
    if "propertyNames" not in made:
        return
    said = _resolved(made["propertyNames"], root)
    if said is True or (isinstance(said, Mapping) and said.get("type", "string") == "string" and not _said(said)):
        del made["propertyNames"]  # all names are texts
        return
    if not isinstance(said, Mapping) or {"properties", "patternProperties"} & made.keys():
        return
    values = made.get("additionalProperties", True)
    names = [said["const"]] if "const" in said else said.get("enum")
    if _said(said) <= {"const", "enum"} and isinstance(names, list):
        made["properties"] = {name: values for name in names if isinstance(name, str)}
    elif _said(said) == {"pattern"}:
        made["patternProperties"] = {said["pattern"]: values}
    else:
        return
    del made["propertyNames"]
    made["additionalProperties"] = False


def _said(schema: Mapping[str, Any]) -> set[str]:
    """What it says besides that it is about texts."""
    return schema.keys() - _NOTES - {"type"}


def _resolved(schema: Any, root: Any) -> Any:
    """What a plain reference to a definition refers to."""
    if not isinstance(schema, Mapping) or not isinstance(reference := schema.get("$ref"), str) or len(schema) > 1:
        return schema
    kept, _, name = urllib.parse.unquote(reference).removeprefix("#/").partition("/")
    kinds = root.get(kept) if isinstance(root, Mapping) and kept in ("$defs", "definitions") else None
    return kinds.get(name, schema) if isinstance(kinds, Mapping) else schema
