"""Finds the text field that keeps a message's bytes from being a message, so that the error can name it. Used by ``call_guard``.

protobuf only says that parsing failed; most often a client put bytes that are no UTF-8 into a string. This walks the wire format
(https://protobuf.dev/programming-guides/encoding) down to that field.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _MalformedError(Exception):
    """These bytes are no message at all."""


def invalid_text_field(descriptor: Descriptor, content: bytes) -> str | None:
    """The path of the first text that is not valid UTF-8, e.g. ``chat.messages[1].content``; None where there is none."""
    try:
        return _search(descriptor, content)
    except _MalformedError:
        return None


def _search(descriptor: Descriptor, content: bytes) -> str | None:
    counts: dict[int, int] = {}
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, wire_type = key >> 3, key & 7
        value, place = _value(content, place, wire_type)
        field = descriptor.fields_by_number.get(number)
        if field is None or wire_type != _BYTES:
            continue
        index = counts[number] = counts.get(number, -1) + 1
        name = f"{field.name}[{index}]" if field.is_repeated else field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                return name
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
            inner = _search(field.message_type, value)
            if inner is not None:
                return f"{name}.{inner}"
    return None


def _value(content: bytes, place: int, wire_type: int) -> tuple[bytes, int]:
    if wire_type == _VARINT:
        return b"", _varint(content, place)[1]
    if wire_type == _BYTES:
        length, place = _varint(content, place)
    elif wire_type in (_FIXED32, _FIXED64):
        length = 4 if wire_type == _FIXED32 else 8
    else:
        raise _MalformedError
    if place + length > len(content):
        raise _MalformedError
    return content[place : place + length], place + length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise _MalformedError
        value |= (content[place] & 0x7F) << shift
        place += 1
        if content[place - 1] < 0x80:
            return value, place
    raise _MalformedError
