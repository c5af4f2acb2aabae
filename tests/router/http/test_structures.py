"""What bodies say of an output's form, as the router is told it; and the grammar of calls that have to be made."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from router.http.asking import asked_chat, asked_completion
from router.http.bodies import ChatBody, CompletionBody
from router.http.tool_calls import FORCED, whole_calls
from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.structured_output import ANY_JSON_OBJECT, StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer
from specgrove.wire.structures import structured_output_from_proto
from tests.router.toy_language import toy_tokenizer_json

MESSAGES = [{"role": "user", "content": "Hello"}]
COMPILER = GrammarCompiler(Tokenizer(toy_tokenizer_json(), {}, None))


class Place(pydantic.BaseModel):
    city: str


class Trip(pydantic.BaseModel):
    """Its schema has a reference, to be looked up from its own root."""

    stops: list[Place]


def tool(name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("travel", Trip.model_json_schema()), tool("stay", None)]
TRAVEL = '<tool_call>\n{"name": "travel", "arguments": {"stops": [{"city": "Köln"}]}}\n</tool_call>'
STAY = '<tool_call>\n{"name": "stay", "arguments": {}}\n</tool_call>'


def chat(**fields: Any) -> StructuredOutput | None:
    (request,) = asked_chat(ChatBody(messages=MESSAGES, **fields)).requests
    sampling = request.sampling
    return structured_output_from_proto(sampling.structured_output) if sampling.HasField("structured_output") else None


def takes(structure: StructuredOutput | None, text: str) -> bool:
    """As a whole."""
    assert structure is not None
    matcher = COMPILER.matcher(structure)
    try:
        matcher.take(list(text.encode()))
    except ValueError:
        return False
    return matcher.allowed().may_end


@pytest.mark.parametrize(
    ("fields", "structure"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY_JSON_OBJECT),
        ({"response_format": {"type": "text", "json_schema": None}}, None),
        ({"response_format": {"type": "json_object", "json_schema": None}}, ANY_JSON_OBJECT),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": None, "extra": None}}}, ANY_JSON_OBJECT),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True}}}, ANY_JSON_OBJECT),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}}},
            StructuredOutput(StructureKind.JSON_SCHEMA, ('{"type":"null"}',)),
        ),
        ({"guided_json": {"type": "null"}}, StructuredOutput(StructureKind.JSON_SCHEMA, ('{"type":"null"}',))),
        ({"guided_json": '{"type": "null"}'}, StructuredOutput(StructureKind.JSON_SCHEMA, ('{"type": "null"}',))),
        ({"guided_regex": "a+"}, StructuredOutput(StructureKind.REGEX, ("a+",))),
        ({"guided_choice": ["a", "b"]}, StructuredOutput(StructureKind.CHOICE, ("a", "b"))),
        ({"guided_grammar": "start: A"}, StructuredOutput(StructureKind.GRAMMAR, ("start: A",))),
        ({"structured_outputs": {"regex": "a+", "json": None}}, StructuredOutput(StructureKind.REGEX, ("a+",))),
        ({"structured_outputs": {"choice": ["a"]}}, StructuredOutput(StructureKind.CHOICE, ("a",))),
        ({"structured_outputs": {"json_object": True}}, ANY_JSON_OBJECT),
        ({"structured_outputs": {"json_object": False}}, None),
    ],
)
def test_each_way_to_say_it(fields: dict[str, Any], structure: StructuredOutput | None) -> None:
    assert chat(**fields) == structure
    (asked,) = asked_completion(CompletionBody(prompt="x", n=2, **fields))
    for request in asked.requests:
        assert request.sampling.HasField("structured_output") == (structure is not None)


def test_a_tool_has_to_be_called() -> None:
    required = chat(tools=TOOLS, tool_choice="required")
    assert all(takes(required, text) for text in (TRAVEL, STAY, f"{STAY}\n{TRAVEL}"))
    assert not any(takes(required, text) for text in ("", "Hello", TRAVEL[:-1], f"Hello {STAY}", f"{STAY}{STAY}"))
    assert not takes(required, TRAVEL.replace("city", "town"))
    assert not takes(required, STAY.replace("stay", "go"))


def test_arguments_are_those_that_the_tool_has() -> None:
    talkative = STAY.replace("{}", '{"why": "fun"}')
    properties = {"properties": {"days": {"type": "integer"}}}
    for parameters in (None, properties):
        assert not takes(chat(tools=[tool("stay", parameters)], tool_choice="required"), talkative)
    for parameters in ({"additionalProperties": True}, {"anyOf": [properties]}):
        assert takes(chat(tools=[tool("stay", parameters)], tool_choice="required"), talkative)


def test_a_named_tool_is_called_once() -> None:
    named = chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "stay"}})
    assert takes(named, STAY)
    assert not any(takes(named, text) for text in (TRAVEL, f"{STAY}\n{STAY}"))


def test_without_parallel_calls_there_is_one() -> None:
    single = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert takes(single, TRAVEL)
    assert not takes(single, f"{STAY}\n{TRAVEL}")


def test_with_tools_an_output_is_of_its_form_or_calls() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": Place.model_json_schema()}}
    either = chat(tools=TOOLS, response_format=form)
    assert all(takes(either, text) for text in (TRAVEL, STAY, f"{STAY}\n{STAY}", '{"city": "Bonn"}'))
    assert not any(takes(either, text) for text in ('{"town": "Bonn"}', "Hello", f'{{"city": "Bonn"}}{STAY}'))
    assert chat(tools=TOOLS, tool_choice="none", response_format=form) == chat(response_format=form)
    assert takes(chat(tools=TOOLS, response_format={"type": "json_object"}), '{"any": 1}')


@pytest.mark.parametrize("name", ["travel", 'a "b"\\', "Füße"])
def test_calls_that_are_written_so_are_read(name: str) -> None:
    tools = [tool(name, {"type": "object", "properties": {"n": {"type": "integer"}}})]
    text = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {{"n": 3}}}}\n</tool_call>'
    assert takes(chat(tools=tools, tool_choice="required"), text)
    (reader,) = FORCED.readers(tools, 1, may_be_many=True)
    rest, pieces = reader.add(text, is_end=True)
    (call,) = whole_calls(pieces)
    assert (rest, call.name, json.loads(call.arguments)) == ("", name, {"n": 3})
