"""What clients send, checked against the model served: a ``GenerationRequest``, or every violation there is, by proto field.

Used by the servicer. Invariant: what passes here can be run; nothing behind it checks a client's values again. Cheap checks come
before expensive ones: a prompt that is far too long is never tokenised.
"""

from __future__ import annotations

import asyncio
import functools
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.served_model import ServedModel
from specgrove import wire
from specgrove.errors import FieldViolation, InvalidRequestError
from specgrove.request import GenerationRequest, SamplingParams, SpeculationOptions
from specgrove.v1 import router_pb2, token_tree_pb2

_ROLES = ("system", "user", "assistant")
_MAX_NUM_MESSAGES = 4096
_MAX_NUM_STOP_TEXTS = 16
_MAX_STOP_TEXT_LEN = 256
_MAX_NUM_STOP_TOKENS = 64
_MAX_NUM_LOGIT_BIASES = 1024
# What an SSM service takes.
_SPECULATION_LIMITS = {"max_num_nodes": 255, "max_depth": 32, "beam_width": 64}
_MAX_NUM_LOG_PROBS = 20
# Tokenising takes about a millisecond per 4 KiB; longer texts go to a thread, so that other streams go on.
_THREAD_MIN_BYTES = 4096
_NUM_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be run, and the texts that stop it."""

    request: GenerationRequest
    stop_texts: tuple[str, ...]


async def checked_request(
    proto: router_pb2.GenerateRequest,
    model: ServedModel,
    ssms: Sequence[str],
    *,
    session_id: str,
    deadline_s: float | None,
) -> CheckedRequest:
    """Raises ``InvalidRequestError`` with all violations."""
    found = _Violations()
    if proto.model not in ("", model.name):
        found.add("model", f"{proto.model!r} is not served here; this router serves {model.name!r}")
    _check_sampling(found, proto.sampling, model.vocab_size)
    _check_stop_texts(found, proto.stop)
    for field, limit in _SPECULATION_LIMITS.items():
        if (value := getattr(proto.speculation, field)) > limit:
            found.add(f"speculation.{field}", f"must be at most {limit}, got {value}")
    for name in proto.speculation.ssms:
        if name not in ssms:
            found.add("speculation.ssms", f"unknown SSM {name!r}; there are: {', '.join(ssms) or 'none'}")
    prompt = await _prompt_token_ids(found, proto, model)
    # Without a usable prompt the lengths cannot be judged.
    max_tokens = max(_max_tokens(found, proto, len(prompt), model.context_len), 1) if prompt else 1
    found.raise_any()
    return CheckedRequest(
        GenerationRequest(
            session_id=session_id,
            prompt_token_ids=prompt,
            max_tokens=max_tokens,
            sampling=_sampling_of(proto, model.eos_token_ids),
            speculation=_speculation_of(proto.speculation),
            deadline_s=deadline_s,
            wants_prompt_progress=proto.prompt_progress,
        ),
        tuple(proto.stop),
    )


async def checked_tokenize(proto: router_pb2.TokenizeRequest, model: ServedModel) -> tuple[int, ...]:
    """The token ids of a ``TokenizeRequest``. Raises ``InvalidRequestError``."""
    found = _Violations()
    token_ids = await _encoded(found, proto, proto.WhichOneof("input"), model)
    found.raise_any()
    return token_ids


def checked_detokenize(proto: router_pb2.DetokenizeRequest, model: ServedModel) -> list[int]:
    """The token ids of a ``DetokenizeRequest``. Raises ``InvalidRequestError``."""
    found = _Violations()
    _check_token_ids(found, "token_ids", proto.token_ids, model.vocab_size)
    found.raise_any()
    return list(proto.token_ids)


class _Violations:
    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self._found.append(FieldViolation(field, description))

    def check_range(self, field: str, value: float, low: float, high: float, *, is_low_open: bool = False) -> None:
        is_inside = (low < value if is_low_open else low <= value) and value <= high
        if not (math.isfinite(value) and is_inside):
            self.add(field, f"must be in {'(' if is_low_open else '['}{low:g}, {high:g}], got {value:g}")

    def raise_any(self) -> None:
        if self._found:
            raise InvalidRequestError(self._found)


def _check_sampling(found: _Violations, params: token_tree_pb2.SamplingParams, vocab_size: int) -> None:
    found.check_range("sampling.temperature", params.temperature, 0, 100)
    if params.HasField("top_p"):
        found.check_range("sampling.top_p", params.top_p, 0, 1, is_low_open=True)
    found.check_range("sampling.min_p", params.min_p, 0, 1)
    if params.HasField("repetition_penalty"):
        found.check_range("sampling.repetition_penalty", params.repetition_penalty, 0, 10, is_low_open=True)
    found.check_range("sampling.presence_penalty", params.presence_penalty, -2, 2)
    found.check_range("sampling.frequency_penalty", params.frequency_penalty, -2, 2)
    if len(params.logit_bias) > _MAX_NUM_LOGIT_BIASES:
        found.add("sampling.logit_bias", f"has {len(params.logit_bias)} entries; at most {_MAX_NUM_LOGIT_BIASES}")
    _check_token_ids(found, "sampling.logit_bias", tuple(params.logit_bias), vocab_size)
    for token_id, bias in params.logit_bias.items():
        if not -100 <= bias <= 100:
            found.add("sampling.logit_bias", f"of token {token_id} must be in [-100, 100], got {bias:g}")
            break
    if len(params.stop_token_ids) > _MAX_NUM_STOP_TOKENS:
        found.add("sampling.stop_token_ids", f"has {len(params.stop_token_ids)} ids; at most {_MAX_NUM_STOP_TOKENS}")
    _check_token_ids(found, "sampling.stop_token_ids", params.stop_token_ids, vocab_size)
    if params.num_log_probs > _MAX_NUM_LOG_PROBS:
        found.add("sampling.num_log_probs", f"must be at most {_MAX_NUM_LOG_PROBS}, got {params.num_log_probs}")


def _check_stop_texts(found: _Violations, stop_texts: Sequence[str]) -> None:
    if len(stop_texts) > _MAX_NUM_STOP_TEXTS:
        found.add("stop", f"has {len(stop_texts)} texts; at most {_MAX_NUM_STOP_TEXTS}")
    for index, text in enumerate(stop_texts[:_MAX_NUM_STOP_TEXTS]):
        if not 1 <= len(text) <= _MAX_STOP_TEXT_LEN:
            found.add(f"stop[{index}]", f"must have 1 to {_MAX_STOP_TEXT_LEN} characters, has {len(text)}")


def _check_token_ids(found: _Violations, field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    largest = max(token_ids, default=0)
    if largest >= vocab_size:
        found.add(field, f"token id {largest} is out of range; the vocabulary has {vocab_size} ids")


async def _prompt_token_ids(
    found: _Violations, proto: router_pb2.GenerateRequest, model: ServedModel
) -> tuple[int, ...]:
    """Empty when there was a violation."""
    kind = proto.WhichOneof("prompt")
    if kind != "token_ids":
        return await _encoded(found, proto, kind, model)
    token_ids = tuple(proto.token_ids.token_ids)
    if not token_ids:
        found.add("token_ids.token_ids", "is empty; a prompt needs at least one token")
    _check_token_ids(found, "token_ids.token_ids", token_ids, model.vocab_size)
    return token_ids


async def _encoded(
    found: _Violations,
    proto: router_pb2.GenerateRequest | router_pb2.TokenizeRequest,
    kind: str | None,
    model: ServedModel,
) -> tuple[int, ...]:
    """Token ids of the text or chat; empty when there was a violation."""
    if kind is None:
        found.add("prompt", "none was given: set text, chat or token_ids")
        return ()
    texts = [proto.text] if kind == "text" else [message.content for message in proto.chat.messages]
    num_bytes = sum(len(text.encode()) for text in texts)
    max_bytes = model.context_len * model.tokenizer.max_token_bytes
    if num_bytes > max_bytes:
        found.add(
            kind,
            f"has {num_bytes} bytes, which cannot fit: the context is {model.context_len} tokens of at most "
            f"{model.tokenizer.max_token_bytes} bytes each",
        )
        return ()
    if kind == "text":
        if not proto.text:
            found.add("text", "is empty; a prompt needs at least one token")
            return ()
        encode = functools.partial(model.tokenizer.encode, proto.text)
    else:
        if not _is_chat_valid(found, proto.chat):
            return ()
        messages = [(message.role, message.content) for message in proto.chat.messages]
        encode = functools.partial(model.tokenizer.encode_chat, messages)
    try:
        token_ids = await asyncio.to_thread(encode) if num_bytes >= _THREAD_MIN_BYTES else encode()
    except ValueError as error:
        found.add(kind, str(error))
        return ()
    if not token_ids:
        found.add(kind, "has no tokens; a prompt needs at least one")
    return tuple(token_ids)


def _is_chat_valid(found: _Violations, chat: router_pb2.Chat) -> bool:
    if not chat.messages:
        found.add("chat.messages", "is empty; a conversation needs at least one message")
        return False
    if len(chat.messages) > _MAX_NUM_MESSAGES:
        found.add("chat.messages", f"has {len(chat.messages)} messages; at most {_MAX_NUM_MESSAGES}")
        return False
    wrong = [index for index, message in enumerate(chat.messages) if message.role not in _ROLES]
    for index in wrong:
        role = chat.messages[index].role
        found.add(f"chat.messages[{index}].role", f"must be one of {', '.join(_ROLES)}, got {role!r}")
    empty = [index for index, message in enumerate(chat.messages) if message.role == "user" and not message.content]
    for index in empty:
        found.add(f"chat.messages[{index}].content", "is empty; a user's message needs a text")
    return not wrong and not empty


def _max_tokens(found: _Violations, proto: router_pb2.GenerateRequest, prompt_len: int, context_len: int) -> int:
    num_left = context_len - prompt_len
    if num_left < 1:
        found.add(
            proto.WhichOneof("prompt") or "prompt",
            f"has {prompt_len} tokens, which leaves no room for output: the context is {context_len} tokens",
        )
    elif proto.max_tokens > num_left:
        found.add(
            "max_tokens",
            f"must be at most {num_left} (context of {context_len} tokens, prompt of {prompt_len}), got {proto.max_tokens}",
        )
    max_tokens = proto.max_tokens or num_left
    if proto.sampling.min_tokens > max_tokens > 0:
        found.add("sampling.min_tokens", f"must be at most max_tokens ({max_tokens}), got {proto.sampling.min_tokens}")
    return max_tokens


def _sampling_of(proto: router_pb2.GenerateRequest, eos_token_ids: tuple[int, ...]) -> SamplingParams:
    params = wire.sampling_from_proto(proto.sampling)
    ends = () if proto.ignore_eos else eos_token_ids
    return replace(
        params,
        seed=params.seed if proto.sampling.HasField("seed") else secrets.randbits(_NUM_SEED_BITS),
        stop_token_ids=tuple(dict.fromkeys((*params.stop_token_ids, *ends))),
    )


def _speculation_of(proto: router_pb2.SpeculationOptions) -> SpeculationOptions:
    return SpeculationOptions(
        disabled=proto.disabled,
        ssms=tuple(proto.ssms),
        max_num_nodes=proto.max_num_nodes or None,
        max_depth=proto.max_depth or None,
        beam_width=proto.beam_width or None,
    )
