"""What callers of the clients give, as plain values: texts, token ids, conversations and times, from whatever Python type means them.

Used by ``wire``. Invariant: a text is never taken for a sequence of texts, and what has no clear meaning raises
``InvalidRequestError`` with the field's name.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from specgrove.client.json_values import json_object
from specgrove.client.texts import named, text_of
from specgrove.errors import InvalidRequestError
from specgrove.v1 import router_pb2

Message = tuple[str, str] | Mapping[str, object] | router_pb2.ChatMessage
"""A (role, content) pair, or a mapping as in OpenAI's API: ``role``, ``content``, and what else the chat template reads."""
ChatMessages = Iterable[Message]
"""A conversation, oldest message first."""
Prompt = str | Message | ChatMessages | Iterable[int]
"""Text that is continued as it is, a conversation, or token ids."""

_MAX_TOKEN_ID = 2**32 - 1
# Of chat completions, and of what the Responses API asks and answers.
_TEXT_PART_TYPES = ("text", "input_text", "output_text")
# What an assistant said in place of an answer has a name of its own in OpenAI's APIs.
_REFUSAL = "refusal"
# Years: as good as none, and within what gRPC can count.
_MAX_TIMEOUT_S = 1e9


def texts_of(field: str, value: object) -> list[str]:
    """One text, several, or ``None`` for none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [text_of(field, value)]
    elements = _elements(field, value, "a text or several")
    return [text_of(f"{field}[{index}]", element) for index, element in enumerate(elements)]


def ids_of(field: str, value: object) -> list[int]:
    """Token ids from any iterable of whole numbers, numpy's included."""
    elements = _elements(field, value, "token ids")
    return [_id_of(field, f"element {index}", element) for index, element in enumerate(elements)]


def one_or_more_ids_of(field: str, value: object) -> list[int]:
    """As ``ids_of``; also a single id, or ``None`` for none."""
    if value is None:
        return []
    return ids_of(field, [value] if is_number(value) else value)


def biases_of(field: str, value: object) -> dict[int, object]:
    """A mapping by token id; JSON's keys are texts, so ids may be."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError.of(field, f"must be a mapping of token ids to numbers, got {named(value)}")
    ids = [_id_of_key(field, key) for key in value]
    if twice := [token_id for token_id, count in Counter(ids).items() if count > 1]:
        raise InvalidRequestError.of(field, f"has two values for token {twice[0]}, as a number and as a text")
    return dict(zip(ids, value.values(), strict=True))


def messages_of(value: object) -> list[router_pb2.ChatMessage]:
    """A conversation; a message alone is one of one message."""
    if isinstance(value, (Mapping, router_pb2.ChatMessage)):
        value = [value]
    elements = _elements("chat.messages", value, "messages")
    return [_message_of(f"chat.messages[{index}]", element) for index, element in enumerate(elements)]


def prompt_elements(value: object) -> list[object]:
    """The messages or token ids of a prompt that is no text."""
    if isinstance(value, (Mapping, router_pb2.ChatMessage)):
        return [value]
    if isinstance(value, (set, frozenset)):
        raise InvalidRequestError.of("prompt", "must have an order, got a set")
    return _elements("prompt", value, "a text, messages or token ids")


def is_number(value: object) -> bool:
    """Whether it can only be meant as a token id, be it a good one or not."""
    if isinstance(value, float):
        return True
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def timeout_of(value: object) -> float | None:
    """Seconds, or ``None`` for no limit."""
    if value is None:
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError.of("timeout_s", f"must be seconds, got {named(value)}") from error
    if math.isnan(seconds) or seconds <= 0:
        raise InvalidRequestError.of("timeout_s", f"must be above 0 seconds, got {seconds:g}")
    return None if seconds > _MAX_TIMEOUT_S else seconds


def _message_of(field: str, message: object) -> router_pb2.ChatMessage:
    if isinstance(message, router_pb2.ChatMessage):
        return message
    if isinstance(message, Mapping):
        return _message_of_mapping(field, message)
    if isinstance(message, (tuple, list)) and len(message) == 2:
        role, content = message
        return router_pb2.ChatMessage(role=_role_of(field, role), content=_content_of(f"{field}.content", content))
    raise InvalidRequestError.of(
        field, f"must be a (role, content) pair or a mapping with role and content, got {named(message)}"
    )


def _message_of_mapping(field: str, message: Mapping[Any, Any]) -> router_pb2.ChatMessage:
    if "role" not in message:
        raise InvalidRequestError.of(f"{field}.role", f"is missing; the message has {', '.join(map(repr, message))}")
    attributes = {name: value for name, value in message.items() if name not in ("role", "content")}
    # A message that calls tools may come without content, or with None for it, as an answer without text may.
    if "content" not in message and not attributes:
        raise InvalidRequestError.of(f"{field}.content", "is missing")
    content = message.get("content")
    is_empty = content is None and (bool(attributes) or message["role"] == "assistant")
    text = "" if is_empty else _content_of(f"{field}.content", content)
    if not text and message["role"] == "assistant" and isinstance(refusal := attributes.get(_REFUSAL), str):
        text = text_of(f"{field}.{_REFUSAL}", refusal)
    proto = router_pb2.ChatMessage(role=_role_of(field, message["role"]), content=text)
    _check_calls(f"{field}.tool_calls", attributes.get("tool_calls"))
    if attributes:
        proto.attributes_json = json_object(f"{field}.attributes", attributes)
    return proto


def _check_calls(field: str, calls: object) -> None:
    """Templates pass over what is no list."""
    if calls is None or calls == {}:  # languages whose empty list is an empty table
        return
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, Mapping) for call in calls):
        raise InvalidRequestError.of(
            field, "must be a list of objects, {'id': ..., 'type': 'function', 'function': {...}}"
        )


def _role_of(field: str, role: object) -> str:
    return text_of(f"{field}.role", role)


def _content_of(field: str, content: object) -> str:
    """A text, or a list of parts as in OpenAI's APIs, or of texts; each is a line."""
    if not isinstance(content, (list, tuple)):
        return text_of(field, content)
    return "\n".join(_part_text_of(f"{field}[{index}]", part) for index, part in enumerate(content))


def _part_text_of(field: str, part: object) -> str:
    if isinstance(part, str):
        return text_of(field, part)
    if isinstance(part, Mapping) and part.get("type") == _REFUSAL and _REFUSAL in part:
        return text_of(f"{field}.{_REFUSAL}", part[_REFUSAL])
    if not isinstance(part, Mapping) or part.get("type", "text") not in _TEXT_PART_TYPES or "text" not in part:
        kind = repr(part.get("type")) if isinstance(part, Mapping) else named(part)
        raise InvalidRequestError.of(field, f"must be a part of text, {{'type': 'text', 'text': ...}}, got {kind}")
    return text_of(f"{field}.text", part["text"])


def _elements(field: str, value: object, wanted: str) -> list[object]:
    is_iterable = isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))
    if not is_iterable:
        raise InvalidRequestError.of(field, f"must be {wanted}, got {named(value)}")
    try:
        return list(value)  # type: ignore[call-overload, no-any-return]
    except TypeError as error:  # e.g. an array without dimensions
        raise InvalidRequestError.of(field, f"must be {wanted}: {error}") from error


def _id_of(field: str, place: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        token_id = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequestError.of(field, f"{place} must be a token id, got {named(value)}") from None
    if not 0 <= token_id <= _MAX_TOKEN_ID:
        raise InvalidRequestError.of(field, f"{place} must be a token id, 0 to {_MAX_TOKEN_ID}, got {named(token_id)}")
    return token_id


def _id_of_key(field: str, key: object) -> int:
    is_written = isinstance(key, str) and re.fullmatch(r"[0-9]{1,10}", key)
    return _id_of(field, "a key", int(key) if is_written else key)  # type: ignore[call-overload]
