"""What callers say of an output's form reaches the request as it was meant, or the field is named."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from specgrove.client.wire import request_to_proto
from specgrove.errors import InvalidRequestError
from specgrove.structures.structured_output import ANY_JSON_OBJECT, StructuredOutput, StructureKind
from specgrove.wire.structures import structured_output_from_proto, structured_output_to_proto


class Planet(pydantic.BaseModel):
    name: str
    radius_km: int


def sent(**params: Any) -> StructuredOutput:
    request = request_to_proto("hello", **params)
    found = structured_output_from_proto(request.sampling.structured_output)
    assert structured_output_from_proto(structured_output_to_proto(found)) == found  # type: ignore[arg-type]
    return found


def test_each_form_is_sent() -> None:
    ordered = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert sent(json_schema=ordered).text == '{"type":"object","properties":{"b":{},"a":{}}}'
    assert sent(json_schema='{"type": "null"}') == StructuredOutput(StructureKind.JSON_SCHEMA, ('{"type": "null"}',))
    assert list(json.loads(sent(json_schema=Planet).text)["properties"]) == ["name", "radius_km"]
    assert sent(json_object=True) == ANY_JSON_OBJECT
    assert sent(regex="a+", json_object=False, choice=None) == StructuredOutput(StructureKind.REGEX, ("a+",))
    assert sent(choice=("yes", "no")) == StructuredOutput(StructureKind.CHOICE, ("yes", "no"))
    assert sent(grammar="start: A") == StructuredOutput(StructureKind.GRAMMAR, ("start: A",))


def test_without_any_nothing_is_sent() -> None:
    for params in ({}, {"json_schema": None, "json_object": False, "regex": None}):
        assert not request_to_proto("hello", **params).sampling.HasField("structured_output")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"json_schema": 3}, ".json_schema"),
        ({"json_schema": {"const": float("nan")}}, ".json_schema.const"),
        ({"json_object": 1}, ".json_object"),
        ({"regex": b"a"}, ".regex"),
        ({"choice": 5}, ".choice"),
        ({"choice": ["a", 5]}, ".choice[1]"),
        ({"grammar": ["start: A"]}, ".grammar"),
        ({"regex": "a", "choice": ["a"]}, ""),
    ],
)
def test_what_fits_nothing_is_named(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as told:
        request_to_proto("hello", **params)
    assert [violation.field for violation in told.value.violations] == [f"sampling.structured_output{field}"]
