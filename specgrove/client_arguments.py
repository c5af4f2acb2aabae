"""What callers of the clients give, as plain values: texts, token ids, conversations and times, from whatever Python type means them.

Used by ``client_wire``. Invariant: a text is never taken for a sequence of texts, and what has no clear meaning raises
``InvalidRequestError`` with the field's name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from specgrove.errors import InvalidRequestError
from specgrove.v1 import router_pb2

Message = tuple[str, str] | Mapping[str, object] | router_pb2.ChatMessage
"""A (role, content) pair, or a mapping as in OpenAI's API: ``role``, ``content``, and what else the chat template reads."""
ChatMessages = Iterable[Message]
"""A conversation, oldest message first."""
Prompt = str | Message | ChatMessages | Iterable[int]
"""Text that is continued as it is, a conversation, or token ids."""

_MAX_TOKEN_ID = 2**32 - 1
# Years: as good as none, and within what gRPC can count.
_MAX_TIMEOUT_S = 1e9


def text_of(field: str, value: object) -> str:
    """The text, where it is one that can be sent."""
    if not isinstance(value, str):
        raise InvalidRequestError.of(field, f"must be a text, got {_named(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        description = f"is no valid Unicode: half a surrogate pair at character {error.start}"
        raise InvalidRequestError.of(field, description) from error
    return value


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
    return [_id_of(field, index, element) for index, element in enumerate(elements)]


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
        raise InvalidRequestError.of(field, f"must be a mapping of token ids to numbers, got {_named(value)}")
    keys = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in value]
    return dict(zip(ids_of(field, keys), value.values(), strict=True))


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
        raise InvalidRequestError.of("timeout_s", f"must be seconds, got {_named(value)}") from error
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
        field, f"must be a (role, content) pair or a mapping with role and content, got {_named(message)}"
    )


def _message_of_mapping(field: str, message: Mapping[Any, Any]) -> router_pb2.ChatMessage:
    if "role" not in message:
        raise InvalidRequestError.of(f"{field}.role", f"is missing; the message has {', '.join(map(repr, message))}")
    attributes = {name: value for name, value in message.items() if name not in ("role", "content")}
    # A message that calls tools may come without content, or with None for it.
    if "content" not in message and not attributes:
        raise InvalidRequestError.of(f"{field}.content", "is missing")
    content = message.get("content")
    proto = router_pb2.ChatMessage(
        role=_role_of(field, message["role"]),
        content="" if content is None and attributes else _content_of(f"{field}.content", content),
    )
    if attributes:
        try:
            proto.attributes.update(attributes)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError.of(f"{field}.attributes", str(error)) from error
    return proto


def _role_of(field: str, role: object) -> str:
    return text_of(f"{field}.role", role)


def _content_of(field: str, content: object) -> str:
    """A text, or OpenAI's list of parts; parts of text are lines."""
    if not isinstance(content, (list, tuple)):
        return text_of(field, content)
    return "\n".join(_part_text_of(f"{field}[{index}]", part) for index, part in enumerate(content))


def _part_text_of(field: str, part: object) -> str:
    if not isinstance(part, Mapping) or part.get("type", "text") != "text" or "text" not in part:
        kind = repr(part.get("type")) if isinstance(part, Mapping) else _named(part)
        raise InvalidRequestError.of(field, f"must be a part of text, {{'type': 'text', 'text': ...}}, got {kind}")
    return text_of(f"{field}.text", part["text"])


def _elements(field: str, value: object, wanted: str) -> list[object]:
    is_iterable = isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))
    if not is_iterable:
        raise InvalidRequestError.of(field, f"must be {wanted}, got {_named(value)}")
    try:
        return list(value)  # type: ignore[call-overload, no-any-return]
    except TypeError as error:  # e.g. an array without dimensions
        raise InvalidRequestError.of(field, f"must be {wanted}: {error}") from error


def _id_of(field: str, index: int, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        token_id = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequestError.of(field, f"element {index} must be a token id, got {_named(value)}") from None
    if not 0 <= token_id <= _MAX_TOKEN_ID:
        raise InvalidRequestError.of(field, f"element {index} must be a token id, 0 or more, got {token_id}")
    return token_id


def _named(value: object) -> str:
    """A short name of a value that does not belong where it is."""
    if isinstance(value, str):
        return f"the text {value[:32]!r}"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"
