"""JSON schemas whose objects have the properties that are named, and no others. Used by ``structures`` and the grammar of calls.

JSON Schema lets every object have more. People who send a class's schema don't mean that, and small models would go on for ever.
Alternatives are closed each for itself. Invariant: a schema that says itself what other properties an object may have keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not")
_SAYS_ITSELF = {"additionalProperties", "unevaluatedProperties", "patternProperties"}
# Beside ``properties`` these name more of them.
_NAMES_MORE = {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"}


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with its objects closed; as it is where its parts add up, since one part would forbid what another one names."""
    try:
        return _closed(schema) if not any(map(_adds_up, _parts(schema))) else schema
    except RecursionError:
        return schema  # the router says what is wrong with it


def _adds_up(part: Mapping[str, Any]) -> bool:
    others = part.get("allOf", ())
    is_list = isinstance(others, list)
    said = _said(part)
    return (is_list and len(others) > 1) or ("properties" in said and bool(_NAMES_MORE & said))


def _said(schema: Mapping[str, Any]) -> set[str]:
    """Its keywords. One that is null counts as left out: serialisers write all that a schema may have."""
    return {key for key, value in schema.items() if value is not None}


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas in it."""
    if not isinstance(schema, Mapping):  # true and false are schemas, too
        return
    yield schema
    for key, value in schema.items():
        for inner in _schemas_of(key, value):
            yield from _parts(inner)


def _schemas_of(key: str, value: Any) -> Iterator[Any]:
    if key in _MAPS and isinstance(value, Mapping):
        yield from value.values()
    elif key in _LISTS and isinstance(value, list):
        yield from value
    elif key in _SINGLE:
        yield value


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _closed_value(key, value) for key, value in schema.items()}
    if "properties" in (said := _said(made)) and not _SAYS_ITSELF & said:
        made["additionalProperties"] = False
        made["properties"] = _with_required(made["properties"], made.get("required"))
    return made


def _with_required(properties: Any, required: Any) -> Any:
    """What has to be there is named, too."""
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return properties
    return {**properties, **{name: {} for name in required if isinstance(name, str) and name not in properties}}


def _closed_value(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, Mapping):
        return {name: _closed(inner) for name, inner in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [_closed(inner) for inner in value]
    return _closed(value) if key in _SINGLE and key != "not" else value
