"""Names that a schema has twice, in ``properties`` and as a pattern: no output is led to where nothing can follow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.pattern_properties import without_named_patterns
from tests.structures.examples import schema, tiny_vocabulary

TINY = tiny_vocabulary()
COMPILER = GrammarCompiler(TINY)
NUMBER, SMALL = {"type": "integer"}, {"maximum": 5}


def objects(properties: dict[str, Any], patterns: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "patternProperties": patterns, "additionalProperties": False}


def follows(value: dict[str, Any], text: str) -> set[str]:
    """What may come next."""
    matcher = COMPILER.matcher(schema(value))
    matcher.take(TINY.encode(text))
    return {TINY.decode([int(token_id)]) for token_id in matcher.allowed().tokens.nonzero()[0]}


@pytest.mark.parametrize("pattern", ["^a$", "^(a)$", "^(?:a)$"])
def test_after_the_only_name_no_other_is_asked_for(pattern: str) -> None:
    value = objects({"a": NUMBER}, {pattern: NUMBER})
    assert "," not in follows(value, '{"a":1')
    assert "," not in follows({"type": "array", "items": value}, '[{"a":1')


def test_names_that_only_the_pattern_has_stay() -> None:
    value = objects({"a": NUMBER}, {"^(a|b)$": NUMBER})
    assert "," in follows(value, '{"a":1')
    assert {text for text in follows(value, '{"a":1,"') if text} == {"b"}


def test_values_fit_both() -> None:
    value = objects({"a": NUMBER}, {"^a$": SMALL})
    assert json.loads(without_named_patterns(json.dumps(value)))["properties"] == {"a": {"allOf": [NUMBER, SMALL]}}
    assert not {"6", "7"} & follows(value, '{"a":')


@pytest.mark.parametrize(
    "value",
    [
        objects({"a": NUMBER}, {"^x": NUMBER}),
        objects({"a": NUMBER}, {"^b$": NUMBER}),
        {"enum": [objects({"a": NUMBER}, {"^a$": NUMBER})]},
        {"patternProperties": {"^a$": NUMBER}},
        [objects({}, {})],
    ],
)
def test_other_schemas_stay_as_they_are(value: Any) -> None:
    text = json.dumps(value, indent=1)
    assert without_named_patterns(text) is text


def test_what_is_no_json_stays_as_it_is() -> None:
    assert without_named_patterns("{patternProperties") == "{patternProperties"


def test_a_property_may_have_any_name() -> None:
    inner = {"properties": {"a": NUMBER}, "patternProperties": {"^(a|b)$": SMALL}}
    for name in ("default", "enum"):
        changed = json.loads(without_named_patterns(json.dumps({"properties": {name: inner}})))
        assert changed["properties"][name]["patternProperties"] == {"^(b)$": SMALL}


@pytest.mark.parametrize(
    "text",
    [
        '{"properties": {"a": {}}, "patternProperties": {"^a$": {}}, "$ref": "#/patternProperties/%5Ea%24"}',
        '{"properties": {"a": {"maximum": 1e400}}, "patternProperties": {"^a$": {}}}',
        '{"patternProperties": {"^a$": ' + '{"not": ' * 100_000 + "{}" + "}" * 100_000 + "}}",
    ],
    ids=["refers to a pattern's", "a number that JSON lacks", "nested deeply"],
)
def test_what_could_not_be_written_again_stays(text: str) -> None:
    assert without_named_patterns(text) == text
