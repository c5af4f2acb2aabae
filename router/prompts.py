"""A client's prompt (text, conversation or token ids): checked by counts and sizes alone, then turned into token ids.

Used by the validation. Invariant: what is too much is refused by its length, before anything is copied, tokenised or looped over.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from google.protobuf import json_format, struct_pb2

from router.served_model import ServedModel
from router.text_work import TextWork
from router.violations import Violations, quoted
from specgrove.tokenizer import ChatOptions
from specgrove.v1 import router_pb2

_MAX_NUM_MESSAGES = 4096
_MIN_TOKENIZED = 65536
_MAX_STRUCT_BYTES = 64 * 1024
# What a template makes of a message besides its content, as a measure of the work.
_MESSAGE_OVERHEAD_BYTES = 32
_ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONVERSATION_NAMES = ("messages", "add_generation_prompt", "continue_final_message")
_MESSAGE_NAMES = ("role", "content")

WithPrompt = router_pb2.GenerateRequest | router_pb2.TokenizeRequest


def check_prompt(found: Violations, proto: WithPrompt, model: ServedModel) -> None:
    """All that can be said of a prompt without tokenising it."""
    kind = _kind_of(proto)
    if kind == "text":
        if not proto.text:
            found.add("text", "is empty; a prompt needs at least one token")
        _check_bytes(found, "text", len(proto.text.encode()), model)
    elif kind == "chat":
        _check_chat(found, proto.chat, model)
    elif isinstance(proto, router_pb2.TokenizeRequest):
        found.add("input", "none was given: set text or chat")
    elif kind == "token_ids":
        _check_ids(found, proto.token_ids.token_ids, model)
    else:
        found.add("prompt", "none was given: set text, chat or token_ids")


def check_token_ids(found: Violations, field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """That all are in the vocabulary."""
    largest = max(token_ids, default=0)
    if largest >= vocab_size:
        found.add(field, f"token id {largest} is out of range; the vocabulary has {vocab_size} ids")


def max_num_tokenized(model: ServedModel) -> int:
    """Texts that are only tokenised or detokenised may be longer than the context: to count their tokens, or to cut them."""
    return max(model.context_len, _MIN_TOKENIZED)


async def prompt_token_ids(
    found: Violations, proto: WithPrompt, model: ServedModel, text_work: TextWork
) -> tuple[int, ...]:
    """The tokens of a prompt that ``check_prompt`` found nothing wrong with; empty when there is a violation after all."""
    kind = _kind_of(proto)
    if isinstance(proto, router_pb2.GenerateRequest) and kind == "token_ids":
        return tuple(proto.token_ids.token_ids)
    is_generate = isinstance(proto, router_pb2.GenerateRequest)
    max_num_tokens = model.context_len if is_generate else max_num_tokenized(model)
    encode: Callable[[], list[int]]
    if kind == "text":
        num_bytes = len(proto.text.encode())
        encode = functools.partial(model.tokenizer.encode, proto.text, max_num_tokens)
    else:
        num_bytes = _chat_bytes(proto.chat) + _MESSAGE_OVERHEAD_BYTES * len(proto.chat.messages)
        encode = functools.partial(_encode_chat, proto.chat, model, max_num_tokens)
    try:
        token_ids = await text_work.run(num_bytes, encode)
    except ValueError as error:
        found.add(str(kind), str(error))
        return ()
    if not token_ids:
        found.add(str(kind), "has no tokens; a prompt needs at least one")
    # A tokenizer's files may name tokens that the model was not made for.
    check_token_ids(found, str(kind), token_ids, model.vocab_size)
    return tuple(token_ids)


def _kind_of(proto: WithPrompt) -> str | None:
    is_generate = isinstance(proto, router_pb2.GenerateRequest)
    kind: str | None = proto.WhichOneof("prompt" if is_generate else "input")
    return kind


def _check_ids(found: Violations, token_ids: Sequence[int], model: ServedModel) -> None:
    field = "token_ids.token_ids"
    if not token_ids:
        found.add(field, "is empty; a prompt needs at least one token")
    elif len(token_ids) >= model.context_len:
        description = f"has {len(token_ids)} tokens, which leaves no room for output: "
        found.add("token_ids", f"{description}the context is {model.context_len} tokens")
    else:
        check_token_ids(found, field, token_ids, model.vocab_size)


def _check_bytes(found: Violations, field: str, num_bytes: int, model: ServedModel) -> None:
    if num_bytes > model.context_len * model.tokenizer.max_token_bytes:
        found.add(
            field,
            f"has {num_bytes} bytes, which cannot fit: the context is {model.context_len} tokens of at most "
            f"{model.tokenizer.max_token_bytes} bytes each",
        )


def _check_chat(found: Violations, chat: router_pb2.Chat, model: ServedModel) -> None:
    messages = chat.messages
    if not messages:
        found.add("chat.messages", "is empty; a conversation needs at least one message")
        return
    if not found.check_count("chat.messages", len(messages), _MAX_NUM_MESSAGES, "messages"):
        return
    _check_bytes(found, "chat", _chat_bytes(chat), model)
    wrong_roles = {role for role in {message.role for message in messages} if not _ROLE.fullmatch(role)}
    for index, message in enumerate(messages):
        if message.role in wrong_roles:
            description = f"must be 1 to 64 letters, digits, _ or -, e.g. user; got {quoted(message.role)}"
            found.add(f"chat.messages[{index}].role", description)
        if message.HasField("attributes"):
            _check_names(found, f"chat.messages[{index}].attributes", message.attributes, _MESSAGE_NAMES)
    _check_names(found, "chat.chat_template_kwargs", chat.chat_template_kwargs, _CONVERSATION_NAMES)
    num_struct_bytes = _struct_bytes(chat)
    if num_struct_bytes > _MAX_STRUCT_BYTES:
        description = f"and the messages' attributes have {num_struct_bytes} bytes; at most {_MAX_STRUCT_BYTES}"
        found.add("chat.chat_template_kwargs", description)
    if chat.continue_final_message and chat.HasField("add_generation_prompt") and chat.add_generation_prompt:
        found.add("chat.add_generation_prompt", "must be false, or unset, with continue_final_message")


def _check_names(found: Violations, field: str, struct: struct_pb2.Struct, taken: tuple[str, ...]) -> None:
    for name in taken:
        if name in struct.fields:
            found.add(field, f"{name!r} is set by a field of its own")


def _chat_bytes(chat: router_pb2.Chat) -> int:
    return sum(len(message.content.encode()) for message in chat.messages) + _struct_bytes(chat)


def _struct_bytes(chat: router_pb2.Chat) -> int:
    attributes = (message.attributes.ByteSize() for message in chat.messages if message.HasField("attributes"))
    return chat.chat_template_kwargs.ByteSize() + sum(attributes)


def _encode_chat(chat: router_pb2.Chat, model: ServedModel, max_num_tokens: int) -> list[int]:
    messages = [_values_of_message(message) for message in chat.messages]
    opens_answer = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True
    return model.tokenizer.encode_chat(
        messages,
        ChatOptions(
            add_generation_prompt=opens_answer and not chat.continue_final_message,
            continue_final_message=chat.continue_final_message,
            template_kwargs=_values_of(chat.chat_template_kwargs),
        ),
        max_num_tokens=max_num_tokens,
    )


def _values_of_message(message: router_pb2.ChatMessage) -> dict[str, object]:
    values: dict[str, object] = {"role": message.role, "content": message.content}
    return values | _values_of(message.attributes) if message.HasField("attributes") else values


def _values_of(struct: struct_pb2.Struct) -> dict[str, object]:
    """Raises ``ValueError`` at a number that JSON doesn't have."""
    values: dict[str, object] = json_format.MessageToDict(struct)
    return {name: _with_whole_numbers(value) for name, value in values.items()}


def _with_whole_numbers(value: object) -> object:
    """A ``Struct`` has floats only; templates print 3 and 3.0 differently."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_whole_numbers(element) for element in value]
    if isinstance(value, dict):
        return {name: _with_whole_numbers(element) for name, element in value.items()}
    return value
