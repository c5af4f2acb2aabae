"""Schemas in words that llguidance doesn't know are told it in words that it knows: what they allow stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from specgrove.structures.grammars import GrammarCompiler, check_text
from specgrove.structures.leading_conditions import without_conditions
from specgrove.structures.understood_schemas import understood
from tests.structures.examples import schema, tiny_vocabulary

TINY = tiny_vocabulary()
COMPILER = GrammarCompiler(TINY)
WHOLE, TEXT = {"type": "integer"}, {"type": "string"}
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
PASSWORD = r"^(?=.*[A-Z])(?=.*[0-9]).{4,}$"
LETTERS = {"letter": {"enum": ["a", "b"], "type": "string", "title": "Letter"}}


def allows(value: dict[str, Any], given: object) -> bool:
    matcher = COMPILER.matcher(schema(value))
    token_ids = TINY.encode(json.dumps(given, separators=(",", ":")))
    if matcher.num_possible(token_ids) < len(token_ids):
        return False
    matcher.take(token_ids)
    return matcher.allowed().may_end


def records(names: object, **more: object) -> dict[str, Any]:
    return {"type": "object", "propertyNames": names, "additionalProperties": WHOLE, **more}


@pytest.mark.parametrize(
    ("value", "right", "wrong"),
    [
        # zod's records, and pydantic's dicts by an enum
        (records(TEXT), [{"c": 1}, {}], [{"c": "a"}]),
        (records(True), [{"c": 1}], [{"c": "a"}]),
        (records({"enum": ["a", "b"]}), [{"a": 1}, {"a": 1, "b": 2}, {}], [{"c": 1}, {"a": "a"}]),
        (records({"const": "a"}), [{"a": 1}], [{"c": 1}]),
        (records({"$ref": "#/$defs/letter"}, **{"$defs": LETTERS}), [{"b": 1}], [{"c": 1}]),
        (records({"pattern": "^a"}), [{"ab": 1}], [{"b": 1}]),
        # notes for people, as pydantic writes them of paths, bytes and secrets
        ({"type": "string", "format": "path"}, ["ab"], [1]),
        ({"type": "string", "format": "binary"}, ["ab"], [1]),
        ({"type": "string", "format": "date"}, ["2024-05-01"], ["ab"]),
        # what serialisers write of fields that are not set
        ({"type": "object", "properties": None, "required": None, "additionalProperties": None}, [{}], [1]),
        ({"type": "string", "enum": None, "maxLength": None, "default": None}, ["ab"], [1]),
        ({"const": None}, [None], [1]),
        # bounds of the types of other languages
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [0, -5, 10**18], ["a", 2**63]),
        ({"type": "number", "minimum": -1.7e308, "maximum": 1.7e308}, [0.5, -5], ["a"]),
        ({"type": "string", "minLength": 2.0, "maxLength": 3.0}, ["ab", "abc"], ["a"]),
        ({"$ref": "#/$defs/Größe", "$defs": {"Größe": WHOLE}}, [1], ["a"]),
        ({"type": "object", "properties": {"a": WHOLE}, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
        ({"type": "string", "pattern": DECIMAL}, ["1.5", "-.5", "007"], ["-.", "", "1.2.3"]),
        ({"type": "string", "pattern": PASSWORD}, ["Abc1", "1bcA"], ["abc1", "ABCD", "A1"]),
        ({"type": "string", "pattern": PASSWORD, "maxLength": 4}, ["Abc1"], ["Abcd1"]),
        ({"type": "string", "pattern": "^(?=[a-c.]{1,3}$)[a-z]*[.][a-z]*$"}, ["a.b"], ["a.bc", "d.a"]),
    ],
)
def test_what_a_schema_allows_stays(value: dict[str, Any], right: list[object], wrong: list[object]) -> None:
    check_text(schema(value))
    assert [given for given in right if not allows(value, given)] == []
    assert [given for given in wrong if allows(value, given)] == []


@pytest.mark.parametrize(
    "value",
    [
        {"type": "object", "properties": {"a": {"type": "string", "format": "date", "maxLength": 2}}},
        {"const": {"format": "path", "a": None}},
        {"type": "object", "properties": {"format": {"const": "path"}, "$ref": WHOLE}},
        {"type": "integer", "minimum": -(2**62), "maximum": 2**62},
    ],
)
def test_what_is_understood_stays_as_it_is_written(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1)
    assert understood(text) is text


def test_what_is_no_json_stays() -> None:
    assert understood("{") == "{"
    assert understood("[" * 10_000) == "[" * 10_000


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "^a$",
        "^(?!foo)a",
        "^(?=a)b|c",
        "^(?=a",
        "a(?=b)",
        r"^(?=\(a",
        "^(?![^a]*$)b",
        "^(?=a)?b",
        "^(?=a)(?=b){2}c",
    ],
)
def test_conditions_that_cannot_be_said_otherwise_stay(pattern: str) -> None:
    assert without_conditions(pattern) == [pattern]


def test_conditions_may_hold_groups_and_classes() -> None:
    assert without_conditions(r"^(?=(a|\)|[)(]|[^])]))b$") == ["^b$", r"^(?:(a|\)|[)(]|[^])]))"]


def test_an_end_belongs_to_the_last_alternative_of_a_condition_alone() -> None:
    assert without_conditions("^(?=a|b$).*$") == ["^.*$", "^(?:a|b$)"]
    assert without_conditions("^(?=ab$).*$") == ["^.*$", "^(?:ab)$"]


def test_alternatives_that_overlap_are_told_in_words_of_schemas() -> None:
    with pytest.raises(ValueError, match="alternatives of oneOf that may both fit are not supported; use anyOf"):
        check_text(schema({"oneOf": [WHOLE, {"type": "number"}]}))


@pytest.mark.parametrize("name", ["maxLength", "minLength", "maxItems", "maxProperties"])
@pytest.mark.parametrize("count", [2**53 - 1, 2**63 - 1, 2**64, 1e20])
def test_counts_of_64_bits_are_as_good_as_endless(name: str, count: float) -> None:
    check_text(schema({name: count}))


@pytest.mark.parametrize(
    "bounds",
    [{"minimum": 2**61}, {"exclusiveMinimum": 2**62}, {"maximum": -(2**62)}, {"minimum": 10**18, "maximum": 2**80}],
)
def test_whole_numbers_near_the_end_of_64_bits_can_be_followed(bounds: dict[str, int]) -> None:
    check_text(schema({"type": "integer", **bounds}))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"type": "integer", "minimum": 2**64}, r"leave no integer between -\(2\^63 - 1024\) and 2\^63 - 1024"),
        ({"type": "integer", "maximum": -(2**70)}, "leave no integer between"),
        ({"type": "number", "minimum": 1e19}, r"leave no number between -10\^18 and 10\^18"),
    ],
)
def test_bounds_beyond_all_that_can_be_followed_are_told_in_words(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_text(schema(given))
