"""A client's prompt (text, conversation or token ids): checked by counts and sizes alone, then turned into token ids.

Used by the validation. Invariant: what is too much is refused by its length, before anything is copied, tokenised or looped over.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

from router.served_model import ServedModel
from router.template_values import template_values
from router.text_work import TextWork
from router.violations import Violations, quoted
from specgrove.tokenizer import ChatOptions, Tokenizer
from specgrove.v1 import router_pb2

MAX_NUM_MESSAGES = 4096
_MIN_TOKENIZED = 65536
_MAX_JSON_BYTES = 64 * 1024
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
        if not proto.text and isinstance(proto, router_pb2.GenerateRequest):
            found.add("text", "is empty; a prompt needs at least one token")
        _check_bytes(found, "text", len(proto.text.encode()), model)
    elif kind == "chat":
        _check_chat(found, proto.chat, model)
    elif isinstance(proto, router_pb2.TokenizeRequest):
        found.add("input", "none was given: set text or chat")
    elif kind == "token_ids":
        _check_ids(found, proto.token_ids.token_ids, model, has_output=not proto.prompt_only)
    else:
        found.add("prompt", "none was given: set text, chat or token_ids")


def check_token_ids(found: Violations, field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """That all are in the vocabulary."""
    largest = max(token_ids, default=0)
    if largest >= vocab_size:
        found.add(field, f"token id {largest} is out of range; the vocabulary has {vocab_size} ids")


def max_num_tokenized(model: ServedModel) -> int:
    """Texts that are only tokenised or detokenised may be longer than the context: to count their tokens, or to cut them."""
    return max(model.max_model_len, _MIN_TOKENIZED)


async def prompt_token_ids(
    found: Violations, proto: WithPrompt, model: ServedModel, text_work: TextWork
) -> tuple[int, ...]:
    """The tokens of a prompt that ``check_prompt`` found nothing wrong with; empty when there is a violation after all."""
    kind = _kind_of(proto)
    if isinstance(proto, router_pb2.GenerateRequest) and kind == "token_ids":
        return tuple(proto.token_ids.token_ids)
    is_generate = isinstance(proto, router_pb2.GenerateRequest)
    max_num_tokens = model.max_model_len if is_generate else max_num_tokenized(model)
    encode: Callable[[Tokenizer], list[int]]
    is_apart = False
    if kind == "text":
        num_bytes = len(proto.text.encode())
        encode = functools.partial(Tokenizer.encode, text=proto.text, max_num_tokens=max_num_tokens)
    else:
        num_bytes = proto.chat.ByteSize() + _MESSAGE_OVERHEAD_BYTES * len(proto.chat.messages)
        encode = functools.partial(_encode_chat, chat=proto.chat, max_num_tokens=max_num_tokens)
        # What keeps them text takes a second, once.
        is_apart = not text_work.is_long(num_bytes) and model.tokenizer.writes_control_tokens(
            *_conversation_of(proto.chat)
        )
    try:
        if is_apart:
            token_ids = await text_work.run_apart(model.tokenizer, encode)
        elif kind == "chat":
            token_ids = await text_work.run_chat(model.tokenizer, num_bytes, encode)
        else:
            token_ids = await text_work.run(model.tokenizer, num_bytes, encode)
    except ValueError as error:
        found.add(str(kind), str(error))
        return ()
    if is_generate and not token_ids:
        found.add(str(kind), "has no tokens; a prompt needs at least one")
    # A tokenizer's files may name tokens that the model was not made for.
    check_token_ids(found, str(kind), token_ids, model.vocab_size)
    return tuple(token_ids)


def _kind_of(proto: WithPrompt) -> str | None:
    is_generate = isinstance(proto, router_pb2.GenerateRequest)
    kind: str | None = proto.WhichOneof("prompt" if is_generate else "input")
    return kind


def _check_ids(found: Violations, token_ids: Sequence[int], model: ServedModel, *, has_output: bool) -> None:
    field = "token_ids.token_ids"
    if not token_ids:
        found.add(field, "is empty; a prompt needs at least one token")
    elif len(token_ids) > model.max_model_len - has_output:
        leaves = ", which leaves no room for output: " if has_output else "; "
        found.add("token_ids", f"has {len(token_ids)} tokens{leaves}the context is {model.max_model_len} tokens")
    else:
        check_token_ids(found, field, token_ids, model.vocab_size)


def _check_bytes(found: Violations, field: str, num_bytes: int, model: ServedModel) -> None:
    if num_bytes > model.max_model_len * model.tokenizer.max_token_bytes:
        found.add(
            field,
            f"has {num_bytes} bytes, which cannot fit: the context is {model.max_model_len} tokens of at most "
            f"{model.tokenizer.max_token_bytes} bytes each",
        )


def _check_chat(found: Violations, chat: router_pb2.Chat, model: ServedModel) -> None:
    messages = chat.messages
    if not messages:
        found.add("chat.messages", "is empty; a conversation needs at least one message")
        return
    if not found.check_count("chat.messages", len(messages), MAX_NUM_MESSAGES, "messages"):
        return
    # All of this is done on the event loop: nothing is done for each of thousands of messages that need not be.
    attributes = [(index, text) for index, message in enumerate(messages) if (text := message.attributes_json)]
    num_json_bytes = _num_bytes((chat.chat_template_kwargs_json, *(text for _, text in attributes)))
    _check_bytes(found, "chat", _num_bytes(message.content for message in messages) + num_json_bytes, model)
    _check_roles(found, messages)
    if num_json_bytes > _MAX_JSON_BYTES:
        description = f"and the messages' attributes have {num_json_bytes} bytes; at most {_MAX_JSON_BYTES}"
        found.add("chat.chat_template_kwargs_json", description)
    else:
        _check_values(found, "chat.chat_template_kwargs_json", chat.chat_template_kwargs_json, _CONVERSATION_NAMES)
        for index, text in attributes:
            _check_values(found, f"chat.messages[{index}].attributes_json", text, _MESSAGE_NAMES)
    if chat.continue_final_message and chat.HasField("add_generation_prompt") and chat.add_generation_prompt:
        found.add("chat.add_generation_prompt", "must be false, or unset, with continue_final_message")


def _check_roles(found: Violations, messages: Sequence[router_pb2.ChatMessage]) -> None:
    wrong_roles = {role for role in {message.role for message in messages} if not _ROLE.fullmatch(role)}
    if not wrong_roles:
        return
    for index, message in enumerate(messages):
        if message.role in wrong_roles:
            description = f"must be 1 to 64 letters, digits, _ or -, e.g. user; got {quoted(message.role)}"
            found.add(f"chat.messages[{index}].role", description)


def _check_values(found: Violations, field: str, text: str, taken: tuple[str, ...]) -> None:
    try:
        values = template_values(text)
    except ValueError as error:
        found.add(field, str(error))
        return
    for name in taken:
        if name in values:
            found.add(field, f"{name!r} is set by a field of its own")


def _num_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _encode_chat(tokenizer: Tokenizer, chat: router_pb2.Chat, max_num_tokens: int) -> list[int]:
    return tokenizer.encode_chat(*_conversation_of(chat), max_num_tokens=max_num_tokens)


def _conversation_of(chat: router_pb2.Chat) -> tuple[list[dict[str, object]], ChatOptions]:
    messages = [
        {"role": message.role, "content": message.content, **template_values(message.attributes_json)}
        for message in chat.messages
    ]
    opens_answer = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True
    return messages, ChatOptions(
        add_generation_prompt=opens_answer and not chat.continue_final_message,
        continue_final_message=chat.continue_final_message,
        has_control_tokens=chat.control_tokens,
        template_kwargs=template_values(chat.chat_template_kwargs_json),
    )
