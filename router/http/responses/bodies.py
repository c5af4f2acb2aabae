"""What clients send to ``/v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from router.http.bodies import Generation, Values

_TEXT = {"type": "string"}
_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": _TEXT},
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"const": "message"},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": {"anyOf": [_TEXT, _PARTS]},
    },
}
_CALL = {
    "type": "object",
    "required": ["type", "call_id", "name", "arguments"],
    "properties": {"type": {"const": "function_call"}, "call_id": _TEXT, "name": _TEXT, "arguments": _TEXT},
}
_OUTPUT = {
    "type": "object",
    "required": ["type", "call_id", "output"],
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": _TEXT,
        "output": {"anyOf": [_TEXT, _PARTS]},
    },
}
# Looked at by ``asked``; here it is only described.
Input = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"anyOf": [_MESSAGE, _CALL, _OUTPUT]}}]}
    ),
]
Tools = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "name"],
                "properties": {"type": {"const": "function"}, "name": _TEXT, "parameters": {"type": "object"}},
            },
        }
    ),
]


_TEXT_SETTINGS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "format": {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "name": _TEXT,
                "schema": {"type": "object"},
                "strict": {"type": "boolean"},
            },
        }
    },
}


class ResponsesBody(Generation):
    """``POST /v1/responses``."""

    input: Input
    instructions: str | None = Field(None, description="Becomes the first message, of the role system.")
    max_output_tokens: int | None = Field(None, ge=1, description="Left out: what the context holds.")
    tools: Tools = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    text: Annotated[Any, WithJsonSchema({"anyOf": [_TEXT_SETTINGS, {"type": "null"}]})] = None
    chat_template_kwargs: Values = None
    metadata: dict[str, Any] | None = Field(None, description="Repeated in the answer.")

    @property
    def has_tools(self) -> bool:
        """Whether the model is shown tools."""
        return bool(self.tools) and self.tool_choice != "none"
