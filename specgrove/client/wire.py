"""The public API's requests, seen from a client: prompts and parameters to protobuf.

Used by ``specgrove.client``; answers are in ``specgrove.client.answers``.
Like ``specgrove.wire.works``, it checks form only: the router says which value is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict, Unpack

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Proto

from specgrove.client.arguments import (
    ChatMessages,
    Prompt,
    biases_of,
    ids_of,
    is_number,
    messages_of,
    one_or_more_ids_of,
    prompt_elements,
    texts_of,
)
from specgrove.client.json_values import json_object
from specgrove.client.structures import StructureParams, structured_output_to_proto
from specgrove.client.texts import named, text_of
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SpeculationOptions
from specgrove.v1 import router_pb2, token_tree_pb2


class ChatParams(TypedDict, total=False):
    """How a conversation becomes a prompt; see ``Chat`` in router.proto."""

    chat_template_kwargs: Mapping[str, object] | None
    add_generation_prompt: bool | None
    continue_final_message: bool
    control_tokens: bool


class GenerateParams(ChatParams, StructureParams, total=False):
    """How to generate; what is left out, or ``None``, has the default of router.proto and token_tree.proto.

    ``top_k`` may be -1 for "off"; ``stop`` and ``stop_token_ids`` may be one or several.
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    seed: int | None
    min_tokens: int | None
    stop: str | Iterable[str] | None
    stop_token_ids: int | Iterable[int] | None
    ignore_eos: bool
    keep_special_tokens: bool
    num_log_probs: int | None
    num_prompt_log_probs: int | None
    prompt_only: bool
    recommended_sampling: bool
    speculation: SpeculationOptions | None
    prompt_progress: bool
    cache_salt: str | None
    step_details: bool
    timeout_s: float | None


_PLAIN_NAMES = (
    "max_tokens",
    "ignore_eos",
    "keep_special_tokens",
    "num_prompt_log_probs",
    "prompt_only",
    "recommended_sampling",
    "prompt_progress",
    "step_details",
)
_TEXT_NAMES = ("model", "cache_salt")
_PLAIN_SAMPLING_NAMES = frozenset(
    field.name
    for field in token_tree_pb2.SamplingParams.DESCRIPTOR.fields
    if not field.is_repeated and field.message_type is None
)


def request_to_proto(prompt: Prompt, **params: Unpack[GenerateParams]) -> router_pb2.GenerateRequest:
    """Raises ``InvalidRequestError`` where a value does not fit its field at all."""
    unknown = params.keys() - GenerateParams.__optional_keys__
    if unknown:
        raise TypeError(f"unknown parameters of generate: {', '.join(sorted(unknown))}")
    request = router_pb2.GenerateRequest(
        stop=texts_of("stop", params.get("stop")),
        speculation=speculation_to_proto(params.get("speculation")),
    )
    for name in _TEXT_NAMES:
        if (text := params.get(name)) is not None:
            setattr(request, name, text_of(name, text))
    for name in _PLAIN_NAMES:
        _set(request, name, params.get(name), name)
    for name in _PLAIN_SAMPLING_NAMES:
        value = params.get(name)
        is_off = name == "top_k" and is_number(value) and value == -1
        _set(request.sampling, name, 0 if is_off else value, f"sampling.{name}")
    stop_token_ids = one_or_more_ids_of("sampling.stop_token_ids", params.get("stop_token_ids"))
    request.sampling.stop_token_ids.extend(stop_token_ids)
    for token_id, bias in biases_of("sampling.logit_bias", params.get("logit_bias")).items():
        _set_bias(request.sampling, token_id, bias)
    if (structure := structured_output_to_proto(params)) is not None:
        request.sampling.structured_output.CopyFrom(structure)
    _set_prompt(request, prompt, params)
    return request


def _set_prompt(request: router_pb2.GenerateRequest, prompt: Prompt, params: ChatParams) -> None:
    is_chat = False
    if isinstance(prompt, str):
        request.text = text_of("text", prompt)
    else:
        elements = prompt_elements(prompt)
        is_chat = bool(elements) and not is_number(elements[0])
        if is_chat:
            request.chat.CopyFrom(chat_to_proto(elements, params))
        else:
            request.token_ids.SetInParent()
            request.token_ids.token_ids.extend(ids_of("token_ids.token_ids", elements))
    for name in ChatParams.__optional_keys__:
        if params.get(name) and not is_chat:
            raise InvalidRequestError.of(f"chat.{name}", "is for conversations; this prompt is none")


def chat_to_proto(messages: object, params: ChatParams | None = None) -> router_pb2.Chat:
    """Raises ``InvalidRequestError`` when a message is none."""
    params = params or {}
    chat = router_pb2.Chat(messages=messages_of(messages))
    if variables := params.get("chat_template_kwargs"):
        chat.chat_template_kwargs_json = json_object("chat.chat_template_kwargs", variables)
    for name in ("add_generation_prompt", "continue_final_message", "control_tokens"):
        _set(chat, name, params.get(name), f"chat.{name}")
    return chat


def speculation_to_proto(options: SpeculationOptions | None) -> router_pb2.SpeculationOptions:
    """``None`` becomes 0: the router's policy decides."""
    proto = router_pb2.SpeculationOptions()
    if options is None:
        return proto
    if not isinstance(options, SpeculationOptions):
        raise InvalidRequestError.of("speculation", f"must be SpeculationOptions, got a {type(options).__name__}")
    proto.ssms.extend(texts_of("speculation.ssms", options.ssms))
    for name in ("disabled", "max_num_nodes", "max_depth", "beam_width"):
        _set(proto, name, getattr(options, name), f"speculation.{name}")
    return proto


def tokenize_request(text_or_chat: str | ChatMessages, params: ChatParams) -> router_pb2.TokenizeRequest:
    """Text as it is, or a conversation."""
    if isinstance(text_or_chat, str):
        return router_pb2.TokenizeRequest(text=text_of("text", text_or_chat))
    return router_pb2.TokenizeRequest(chat=chat_to_proto(text_or_chat, params))


def detokenize_request(token_ids: Iterable[int], keep_special_tokens: bool) -> router_pb2.DetokenizeRequest:
    """Token ids from any iterable of whole numbers."""
    request = router_pb2.DetokenizeRequest(token_ids=ids_of("token_ids", token_ids))
    _set(request, "keep_special_tokens", keep_special_tokens, "keep_special_tokens")
    return request


def _set(message: Proto, name: str, value: object, field: str) -> None:
    """Sets a plain field; ``None`` leaves it unset, and a value of the wrong type or range names it."""
    if value is None:
        return
    kind = message.DESCRIPTOR.fields_by_name[name].type
    try:
        if isinstance(value, bool) and kind != FieldDescriptor.TYPE_BOOL:
            raise TypeError  # protobuf would take it for 1
        setattr(message, name, value)
    except (TypeError, ValueError, OverflowError) as error:
        right = _RIGHT_VALUES[kind]
        raise InvalidRequestError.of(field, f"must be {right}, got {named(value)}") from error


def _set_bias(sampling: token_tree_pb2.SamplingParams, token_id: int, bias: object) -> None:
    try:
        if isinstance(bias, bool):
            raise TypeError  # protobuf would take it for 1
        sampling.logit_bias[token_id] = bias  # type: ignore[assignment]
    except (TypeError, ValueError, OverflowError) as error:
        description = f"of token {token_id} must be a number, got {named(bias)}"
        raise InvalidRequestError.of("sampling.logit_bias", description) from error


_RIGHT_VALUES = {
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 2^32 - 1",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 2^64 - 1",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_BOOL: "true or false",
}
