"""What bodies say of an output's form: ``response_format``, vLLM's fields for it, and calls of tools that have to be made.

Used by ``asking``. It converts only: what a schema or a grammar may be is the router's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.http.bodies import ChatBody, CompletionBody
from router.http.closed_schemas import closed
from router.http.tool_calls.grammar import calls_grammar
from specgrove.client.structures import StructureParams
from specgrove.errors import InvalidRequestError

_GUIDED = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_STRUCTURED = {
    "json": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}
_SCHEMA_KEYS = ("name", "description", "schema", "strict")


@dataclass(frozen=True, slots=True)
class Structure:
    """``params`` as the clients of gRPC take them; ``name`` is the field that says so."""

    params: StructureParams
    name: str


def structure_of(body: ChatBody | CompletionBody) -> Structure | None:
    """Raises ``InvalidRequestError``."""
    found = [*_of_response_format(body.response_format), *_of_structured_outputs(body.structured_outputs)]
    found += [
        _structure(name, kind, value) for name, kind in _GUIDED.items() if (value := getattr(body, name)) is not None
    ]
    if len(found) > 1:
        description = f"give one of {' and '.join(structure.name for structure in found)}, not several"
        raise InvalidRequestError.of(found[0].name, description)
    return found[0] if found else None


def chat_structure_of(body: ChatBody) -> Structure | None:
    """With the tools: where one has to be called the output is calls, and else either calls or what is asked for.

    Raises ``InvalidRequestError``.
    """
    structure, forced = structure_of(body), _forced(body)
    if forced:
        grammar = calls_grammar(forced, may_be_many=body.parallel_tool_calls and body.tool_choice == "required")
        return Structure({"grammar": grammar}, "tools")
    if not body.has_tools or structure is None:
        return structure
    content = {"type": "object"} if "json_object" in structure.params else structure.params.get("json_schema")
    if not isinstance(content, Mapping):
        raise InvalidRequestError.of(
            structure.name, 'can\'t be sent with tools: send tool_choice "none", or a JSON schema'
        )
    functions = _functions(body.tools)
    grammar = calls_grammar(functions, may_be_many=body.parallel_tool_calls, content=content)
    return Structure({"grammar": grammar}, structure.name)


def _structure(name: str, kind: str, value: object) -> Structure:
    return Structure({kind: value}, name)  # type: ignore[misc]


def _of_response_format(value: object) -> Iterator[Structure]:
    name = "response_format"
    if value is None:
        return
    match _without_nulls(_object(name, value)):
        case {"type": "text", **rest} if not rest:
            return
        case {"type": "json_object", **rest} if not rest:
            yield _structure(name, "json_object", True)
        case {"type": "json_schema", "json_schema": inner, **rest} if not rest:
            keys = _without_nulls(_object(f"{name}.json_schema", inner))
            _check_keys(f"{name}.json_schema", keys, _SCHEMA_KEYS)
            schema = keys.get("schema")
            # Outputs fit in any case; strict ones, which are usual, have named properties only.
            if isinstance(schema, Mapping) and keys.get("strict") is not False:
                schema = closed(schema)
            yield _structure(name, "json_object", True) if schema is None else _structure(name, "json_schema", schema)
        case _:
            description = 'must be {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": ...}}'
            raise InvalidRequestError.of(name, description)


def _of_structured_outputs(value: object) -> Iterator[Structure]:
    if value is None:
        return
    name = "structured_outputs"
    given = {key: element for key, element in _object(name, value).items() if element not in (None, False)}
    _check_keys(name, given, tuple(_STRUCTURED))
    for key, element in given.items():
        yield _structure(f"{name}.{key}", _STRUCTURED[key], element)


def _forced(body: ChatBody) -> Sequence[Mapping[str, Any]]:
    """The functions of which one has to be called; none where it is the model's choice."""
    choice = body.tool_choice
    if choice in (None, "auto", "none"):
        return ()
    if not body.tools:
        raise InvalidRequestError.of("tool_choice", "is for requests with tools")
    functions = _functions(body.tools)
    match choice:
        case "required":
            return functions
        case {"type": "function", "function": {"name": name}}:
            named = [function for function in functions if function["name"] == name]
            if not named:
                raise InvalidRequestError.of("tool_choice.function.name", f"there is no tool {name!r:.64}")
            return named[:1]
        case _:
            description = 'must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}'
            raise InvalidRequestError.of("tool_choice", description)


def _functions(tools: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(tools, list):
        raise InvalidRequestError.of("tools", "must be a list of objects")
    return [_function(f"tools[{index}]", tool) for index, tool in enumerate(tools)]


def _function(name: str, tool: object) -> Mapping[str, Any]:
    function = _object(f"{name}.function", _object(name, tool).get("function"))
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequestError.of(f"{name}.function.name", "must be a text")
    if function.get("parameters") is not None:
        _object(f"{name}.function.parameters", function["parameters"])
    return function


def _object(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError.of(name, "is missing" if value is None else "must be a JSON object")
    return value


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """They count as left out, as in bodies."""
    return {key: value for key, value in values.items() if value is not None}


def _check_keys(name: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise InvalidRequestError.of(f"{name}.{key}", f"is not supported; there are {', '.join(known)}")
