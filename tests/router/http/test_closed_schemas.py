"""Schemas whose objects are closed, as far as that changes nothing that was meant."""

from __future__ import annotations

from typing import Any

import pytest

from router.http.closed_schemas import closed
from router.http.tool_calls.grammar import calls_grammar

NUMBER = {"type": "integer"}
OPEN: dict[str, Any] = {"type": "object", "properties": {"n": NUMBER}}
CLOSED = OPEN | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, CLOSED),
        ({"properties": {"a": OPEN}}, {"properties": {"a": CLOSED}, "additionalProperties": False}),
        ({"type": "array", "items": OPEN}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [OPEN, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": OPEN}}, {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": CLOSED}}),
        # A property may have the name of a keyword.
        ({"properties": {"allOf": NUMBER, "properties": OPEN}},
            {"properties": {"allOf": NUMBER, "properties": CLOSED}, "additionalProperties": False}),
        ({"additionalProperties": OPEN}, {"additionalProperties": CLOSED}),
    ],
)  # fmt: skip
def test_objects_have_what_is_named(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {},
        NUMBER,
        {"type": "object"},  # any object
        OPEN | {"additionalProperties": True},
        OPEN | {"additionalProperties": NUMBER},
        OPEN | {"patternProperties": {"^x": NUMBER}},
        {"const": OPEN, "enum": [OPEN]},
        {"not": OPEN},
        {"allOf": [OPEN, {"properties": {"m": NUMBER}}]},
        {"items": {"$ref": "#/$defs/A", "properties": {"m": NUMBER}}, "$defs": {"A": OPEN}},
        {"properties": "nonsense"} | {"additionalProperties": True},
        {"properties": [], "items": 5, "anyOf": {}, "additionalProperties": True},
    ],
)
def test_what_says_otherwise_or_adds_up_stays(schema: Any) -> None:
    assert closed(schema) == schema


def test_what_is_required_is_named_too() -> None:
    """Closing it would leave nothing that it allows."""
    schema = {"properties": {"a": NUMBER}, "required": ["a", "b"]}
    assert closed(schema) == schema | {"properties": {"a": NUMBER, "b": {}}, "additionalProperties": False}


def test_what_is_null_counts_as_left_out() -> None:
    schema = {"properties": {"a": NUMBER}, "additionalProperties": None, "anyOf": None, "required": None}
    assert closed(schema) == schema | {"additionalProperties": False}
    assert closed({"properties": None}) == {"properties": None}


def test_a_tool_whose_properties_are_null_takes_no_arguments() -> None:
    """So Go writes a map without entries."""
    function = {"name": "f", "parameters": {"type": "object", "properties": None}}
    assert '"properties": {}, "additionalProperties": false' in calls_grammar([function], may_be_many=False)


def test_a_schema_that_is_too_deep_is_the_routers_business() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    assert closed(deep) is deep
