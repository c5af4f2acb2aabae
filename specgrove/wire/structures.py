"""What an output must look like, to protobuf and back. Used by ``specgrove.wire.works`` and the router's validation."""

from __future__ import annotations

from specgrove.errors import InvalidRequestError
from specgrove.ranges import MAX_NUM_CHOICES
from specgrove.structures.structured_output import ANY_JSON_OBJECT, StructuredOutput, StructureKind
from specgrove.v1 import token_tree_pb2

STRUCTURED_OUTPUT = "sampling.structured_output"
"""Where requests have it."""


def structured_output_to_proto(structure: StructuredOutput | None) -> token_tree_pb2.StructuredOutput | None:
    """Any JSON object goes as its schema."""
    match structure:
        case None:
            return None
        case StructuredOutput(StructureKind.CHOICE, texts):
            return token_tree_pb2.StructuredOutput(choice=token_tree_pb2.Choice(texts=texts))
        case _:
            proto = token_tree_pb2.StructuredOutput()
            setattr(proto, structure.kind.value, structure.text)
            return proto


def structured_output_from_proto(proto: token_tree_pb2.StructuredOutput) -> StructuredOutput:
    """Raises ``InvalidRequestError`` where nothing is said."""
    match proto.WhichOneof("kind"):
        case "json_object" if proto.json_object:
            return ANY_JSON_OBJECT
        case "choice":
            if len(proto.choice.texts) > MAX_NUM_CHOICES:
                description = f"has {len(proto.choice.texts)} texts; at most {MAX_NUM_CHOICES}"
                raise InvalidRequestError.of(f"{STRUCTURED_OUTPUT}.choice", description)
            return StructuredOutput(StructureKind.CHOICE, tuple(proto.choice.texts))
        case None | "json_object":
            raise InvalidRequestError.of(STRUCTURED_OUTPUT, "says nothing: set one of its fields")
        case name:
            return StructuredOutput(StructureKind(name), (getattr(proto, name),))
