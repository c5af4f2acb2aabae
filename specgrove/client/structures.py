"""What an output must look like, from callers' arguments to protobuf. Used by ``wire``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from specgrove.client.arguments import texts_of
from specgrove.client.json_values import json_object
from specgrove.client.texts import named, text_of
from specgrove.errors import InvalidRequestError
from specgrove.v1 import token_tree_pb2
from specgrove.wire.structures import STRUCTURED_OUTPUT


class StructureParams(TypedDict, total=False):
    """At most one of them: see ``StructuredOutput`` in token_tree.proto.

    ``json_schema`` is a mapping, its JSON as a text, or a class that gives one, as pydantic's models do.
    """

    json_schema: Mapping[str, Any] | str | type | None
    json_object: bool | None
    regex: str | None
    choice: Any
    grammar: str | None


def structured_output_to_proto(params: Mapping[str, object]) -> token_tree_pb2.StructuredOutput | None:
    """Raises ``InvalidRequestError`` where a value does not fit its field at all, or several are given."""
    given = {
        name: params[name]
        for name in StructureParams.__optional_keys__
        if params.get(name) is not None and not (name == "json_object" and params[name] is False)
    }
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequestError.of(STRUCTURED_OUTPUT, f"give one of {' and '.join(sorted(given))}, not several")
    ((name, value),) = given.items()
    return _of(name, f"{STRUCTURED_OUTPUT}.{name}", value)


def _of(name: str, field: str, value: object) -> token_tree_pb2.StructuredOutput:
    match name:
        case "json_schema":
            return token_tree_pb2.StructuredOutput(json_schema=_schema_of(field, value))
        case "json_object":
            if value is not True:
                raise InvalidRequestError.of(field, f"must be true or false, got {named(value)}")
            return token_tree_pb2.StructuredOutput(json_object=True)
        case "choice":
            return token_tree_pb2.StructuredOutput(choice=token_tree_pb2.Choice(texts=texts_of(field, value)))
        case _:
            proto = token_tree_pb2.StructuredOutput()
            setattr(proto, name, text_of(field, value))
            return proto


def _schema_of(field: str, value: object) -> str:
    if isinstance(value, str):
        return text_of(field, value)
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    return json_object(field, value)
