"""The public API's messages, seen from a client: prompts and parameters to protobuf, answers to frozen values.

Used by ``specgrove.client``. Like ``specgrove.wire``, it checks form only: the router says which value is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from specgrove import wire
from specgrove.errors import InternalError, InvalidRequestError
from specgrove.output import Chunk, Completion, ModelInfo, OutputToken, Usage
from specgrove.request import FinishReason, SpeculationOptions
from specgrove.v1 import router_pb2, token_tree_pb2

ChatMessages = Sequence[tuple[str, str]]
"""(role, content) pairs, oldest first."""
Prompt = str | ChatMessages | Sequence[int]
"""Text that is continued as it is, a conversation, or token ids."""


class GenerateParams(TypedDict, total=False):
    """How to generate; what is left out has the default of router.proto and token_tree.proto."""

    model: str
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    num_log_probs: int | None
    speculation: SpeculationOptions
    prompt_progress: bool
    timeout_s: float | None


_SAMPLING_NAMES = frozenset(field.name for field in token_tree_pb2.SamplingParams.DESCRIPTOR.fields)


def request_to_proto(prompt: Prompt, **params: Unpack[GenerateParams]) -> router_pb2.GenerateRequest:
    """Raises ``InvalidRequestError`` where a value does not fit its field at all."""
    unknown = params.keys() - GenerateParams.__optional_keys__
    if unknown:
        raise TypeError(f"unknown parameters of generate: {', '.join(sorted(unknown))}")
    values = {name: value for name, value in params.items() if name in _SAMPLING_NAMES and value is not None}
    request = router_pb2.GenerateRequest(
        model=_in_field("model", str, params.get("model", "")),
        stop=params.get("stop", ()),
        ignore_eos=params.get("ignore_eos", False),
        speculation=speculation_to_proto(params.get("speculation", SpeculationOptions())),
        prompt_progress=params.get("prompt_progress", False),
    )
    for name, value in values.items():
        _set(request.sampling, name, value, f"sampling.{name}")
    _set(request, "max_tokens", params.get("max_tokens", 0), "max_tokens")
    if isinstance(prompt, str):
        _set(request, "text", prompt, "text")
    elif prompt and not isinstance(prompt[0], int):
        request.chat.CopyFrom(chat_to_proto(prompt))  # type: ignore[arg-type]
    else:
        request.token_ids.SetInParent()
        _set(request.token_ids, "token_ids", list(prompt), "token_ids.token_ids")
    return request


def chat_to_proto(messages: ChatMessages) -> router_pb2.Chat:
    """Raises ``InvalidRequestError`` when a message is no (role, content) pair of texts."""
    chat = router_pb2.Chat()
    for index, message in enumerate(messages):
        try:
            role, content = message
            chat.messages.add(role=role, content=content)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError.of(
                f"chat.messages[{index}]", f"must be a (role, content) pair of texts: {error}"
            ) from error
    return chat


def speculation_to_proto(options: SpeculationOptions) -> router_pb2.SpeculationOptions:
    """``None`` becomes 0: the router's policy decides."""
    return router_pb2.SpeculationOptions(
        disabled=options.disabled,
        ssms=options.ssms,
        max_num_nodes=options.max_num_nodes or 0,
        max_depth=options.max_depth or 0,
        beam_width=options.beam_width or 0,
    )


def chunk_from_proto(proto: router_pb2.GenerateResponse) -> Chunk:
    """One message of the stream."""
    return Chunk(
        tokens=tuple(_token_from_proto(token) for token in proto.tokens),
        text=proto.text,
        finish_reason=_FINISH_REASON_OF_CODE.get(proto.finish_reason),
        usage=usage_from_proto(proto.usage) if proto.HasField("usage") else None,
        num_prompt_tokens_read=proto.num_prompt_tokens_read or None,
    )


def completion_of(chunks: Sequence[Chunk]) -> Completion:
    """All chunks of a stream as one value."""
    last = chunks[-1] if chunks else None
    if last is None or last.finish_reason is None or last.usage is None:
        raise InternalError("the router ended the output without a finish reason")
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=last.finish_reason,
        usage=last.usage,
    )


def usage_from_proto(proto: router_pb2.Usage) -> Usage:
    """All fields."""
    return Usage(
        num_prompt_tokens=proto.num_prompt_tokens,
        num_output_tokens=proto.num_output_tokens,
        num_verify_steps=proto.num_verify_steps,
        acceptance_histogram=tuple(proto.acceptance_histogram),
        drafted_by_depth=tuple(proto.drafted_by_depth),
        accepted_by_depth=tuple(proto.accepted_by_depth),
        num_drafted_nodes=proto.num_drafted_nodes,
        first_token_ms=proto.first_token_ms,
        decode_ms=proto.decode_ms,
        draft_ms=proto.draft_ms,
        verify_ms=proto.verify_ms,
        num_replays=proto.num_replays,
        seed=proto.seed,
    )


def model_info_from_proto(proto: router_pb2.GetModelInfoResponse) -> ModelInfo:
    """All fields."""
    return ModelInfo(
        model=proto.model,
        architecture=proto.architecture,
        vocab_size=proto.vocab_size,
        max_model_len=proto.max_model_len,
        dtype=proto.dtype,
        eos_token_ids=tuple(proto.eos_token_ids),
        ssms=tuple(proto.ssms),
        version=proto.version,
    )


def tokenize_request(text_or_chat: str | ChatMessages) -> router_pb2.TokenizeRequest:
    """Text as it is, or a conversation."""
    if isinstance(text_or_chat, str):
        return router_pb2.TokenizeRequest(text=text_or_chat)
    return router_pb2.TokenizeRequest(chat=chat_to_proto(text_or_chat))


_FINISH_REASON_OF_CODE = {
    router_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    router_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


def _token_from_proto(proto: router_pb2.GeneratedToken) -> OutputToken:
    log_probs = wire.log_probs_from_proto(proto.log_probs) if proto.HasField("log_probs") else None
    return OutputToken(proto.token_id, proto.text, tuple(proto.drafted_by), log_probs)


def _set(message: object, name: str, value: object, field: str) -> None:
    """Sets a scalar, list or map field; a value of the wrong type or range names its field."""
    try:
        if isinstance(value, Mapping):
            getattr(message, name).update(value)
        elif isinstance(value, (list, tuple)):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError.of(field, str(error)) from error


def _in_field(field: str, kind: type[str], value: object) -> str:
    if not isinstance(value, kind):
        raise InvalidRequestError.of(field, f"must be a text, got {value!r}")
    return value
