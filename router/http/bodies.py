"""What clients send as JSON: the fields of every endpoint, for the OpenAPI document and for plain checks of types.

Used by ``app`` and ``asking``. Values are checked by the router, as those that come over gRPC are. Invariant: a field that is not known
is refused, so that nothing mistyped is dropped in silence; one that is null counts as left out.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from router.http.refused import changes_nothing
from specgrove.ranges import MAX_NUM_OUTPUTS

_ID = {"type": "integer", "minimum": 0}
_IDS = {"type": "array", "items": _ID, "minItems": 1}
_TEXT = {"type": "string"}
# Each unknown field is an error of its own, which takes its time.
_MAX_NUM_FIELDS = 256

_NULL = {"type": "null"}
_TEXTS = {"type": "array", "items": _TEXT}

# Looked at by those who know what they may be (``asking`` and ``specgrove.client.wire``); here they are only described.
Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                _TEXTS | {"minItems": 1},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ]
        }
    ),
]
Stop = Annotated[Any, WithJsonSchema({"anyOf": [_TEXT, _TEXTS, _NULL]})]
TokenIds = Annotated[Any, WithJsonSchema({"type": "array", "items": _ID})]
LogitBias = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, _NULL]})
]
Messages = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                    "content": {
                        "anyOf": [
                            _TEXT,
                            {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["type", "text"],
                                    "properties": {"type": {"const": "text"}, "text": _TEXT},
                                },
                            },
                        ]
                    },
                },
            },
        }
    ),
]
JsonSchema = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "object"}, _TEXT, _NULL]})]
Texts = Annotated[Any, WithJsonSchema({"anyOf": [_TEXTS, _NULL]})]
ResponseFormat = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "required": ["type"],
                    "additionalProperties": False,
                    "properties": {"type": {"enum": ["text", "json_object"]}},
                },
                {
                    "type": "object",
                    "required": ["type", "json_schema"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "json_schema"},
                        "json_schema": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "name": _TEXT,
                                "description": _TEXT,
                                "schema": {"type": "object"},
                                "strict": {"type": "boolean"},
                            },
                        },
                    },
                },
                _NULL,
            ]
        }
    ),
]
Structured = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "maxProperties": 1,
                    "properties": {
                        "json": {"anyOf": [{"type": "object"}, _TEXT]},
                        "json_object": {"type": "boolean"},
                        "regex": _TEXT,
                        "choice": _TEXTS,
                        "grammar": _TEXT,
                    },
                },
                _NULL,
            ]
        }
    ),
]
Values = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "object"}, _NULL]})]
Tools = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "object"}}, _NULL]})]
Ignored = Annotated[Any, WithJsonSchema({}), Field(description="Taken and ignored.")]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if len(values) > _MAX_NUM_FIELDS:
            raise ValueError(f"has {len(values)} fields; at most {_MAX_NUM_FIELDS}")
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name in cls.model_fields or not changes_nothing(name, value))
        }


class Speculation(Body):
    """How to speculate, as ``SpeculationOptions`` of router.proto. It changes the speed, never the output."""

    disabled: bool = False
    ssms: Stop = None
    max_num_nodes: int | None = None
    max_depth: int | None = None
    beam_width: int | None = None


class StreamOptions(Body):
    """What a stream has besides the output."""

    include_usage: bool = False
    continuous_usage_stats: bool = Field(
        False, description="With `include_usage`: each chunk tells its output's so far."
    )
    include_obfuscation: bool = Field(False, description="Taken and ignored: nothing is added to chunks.")


class Generation(Body):
    """What all ways to generate take."""

    model: str | None = Field(None, description="Left out: the one served.")
    temperature: float | None = Field(None, description="0 to 100; 0 is greedy. Left out: 1, as in OpenAI's API.")
    top_p: float | None = Field(None, description="0 to 1.")
    seed: int | None = Field(
        None, description="The same seed gives the same output. Left out: drawn, and told in the answer."
    )
    stop: Stop = None
    presence_penalty: float | None = Field(None, description="-2 to 2.")
    frequency_penalty: float | None = Field(None, description="-2 to 2.")
    logit_bias: LogitBias = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    top_k: int | None = Field(None, ge=-1, description="0 and -1: all.")
    min_p: float | None = Field(None, description="0 to 1.")
    repetition_penalty: float | None = Field(None, description="From 0.01 to 10.")
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool = False
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    speculation: Speculation | None = None

    structured_outputs: Structured = None
    guided_json: JsonSchema = None
    guided_regex: str | None = None
    guided_choice: Texts = None
    guided_grammar: str | None = None

    cache_salt: str | None = Field(
        None, description="Only requests with the same one share what is cached of prompts. At most 256 characters."
    )

    user: Ignored = None
    metadata: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    service_tier: Ignored = None


class _Outputs(Generation):
    """Where there may be several outputs."""

    n: int = Field(1, ge=1, le=MAX_NUM_OUTPUTS, description="Outputs of each prompt. Output i has the seed `seed + i`.")
    max_tokens: int | None = Field(None, ge=0)
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        description="0 to 20: each token's of the prompt, and those of so many most probable. Not with `stream`.",
    )
    response_format: ResponseFormat = None


class CompletionBody(_Outputs):
    """``POST /v1/completions``."""

    prompt: Prompt
    echo: bool = False
    logprobs: int | None = Field(
        None, ge=0, description="0 to 20: each token's own, and those of so many most probable."
    )
    max_tokens: int | None = Field(16, ge=0, description="0 outputs nothing; with `echo` or `prompt_logprobs` only.")


class _Conversation(Body):
    messages: Messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    control_tokens: bool = Field(False, description="Special tokens that messages write out are such, and no text.")
    chat_template_kwargs: Values = None


class ChatBody(_Outputs, _Conversation):
    """``POST /v1/chat/completions``."""

    max_completion_tokens: int | None = Field(None, ge=0, description="Left out: what the context holds.")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, description="0 to 20.")
    tools: Tools = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True

    @property
    def has_tools(self) -> bool:
        """Whether the model is shown tools."""
        return bool(self.tools) and self.tool_choice != "none"


class TokenizeBody(Body):
    """``POST /tokenize``: a text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    control_tokens: bool = False
    tools: Tools = None
    chat_template_kwargs: Values = None
    return_token_strs: bool = False

    @property
    def has_tools(self) -> bool:
        """Whether the conversation shows tools."""
        return bool(self.tools)


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: TokenIds
