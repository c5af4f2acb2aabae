"""Finds the text field that keeps a message's bytes from being a message, so that the error can name it. Used by ``call_guard``.

protobuf only says that parsing failed; most often a client put bytes that are no UTF-8 into a string. This walks the wire format
(https://protobuf.dev/programming-guides/encoding) down to that field. It does so on the event loop, and so gives up after a number
of fields that takes a few milliseconds. No message of ours holds messages of its own kind, so the walk is never deep.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

BYTES = 2
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


_MAX_NUM_FIELDS = 2048


class NoMessageError(Exception):
    """These bytes are no message at all, or too many fields."""


def invalid_text_field(descriptor: Descriptor, content: bytes) -> str | None:
    """The path of the first text that is not valid UTF-8, e.g. ``chat.messages[1].content``; None where none was found."""
    try:
        return _Search().in_message(descriptor, content)
    except NoMessageError:
        return None


class _Search:
    """One walk, over all fields of all levels."""

    def __init__(self) -> None:
        self._num_fields = 0

    def in_message(self, descriptor: Descriptor, content: bytes) -> str | None:
        counts: dict[int, int] = {}
        place = 0
        while place < len(content):
            self._num_fields += 1
            if self._num_fields > _MAX_NUM_FIELDS:
                raise NoMessageError
            key, place = varint_at(content, place)
            number, wire_type = key >> 3, key & 7
            start, place = value_at(content, place, wire_type)
            field = descriptor.fields_by_number.get(number)
            if field is None or wire_type != BYTES:
                continue
            index = counts[number] = counts.get(number, -1) + 1
            path = self._in_field(field, content[start:place])
            if path is not None:
                return (f"{field.name}[{index}]" if field.is_repeated else field.name) + path
        return None

    def _in_field(self, field: FieldDescriptor, value: bytes) -> str | None:
        """The path below the field: empty where the field itself is the one."""
        if field.type == FieldDescriptor.TYPE_STRING:
            return None if _is_utf8(value) else ""
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
            inner = self.in_message(field.message_type, value)
            return None if inner is None else f".{inner}"
        return None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def value_at(content: bytes, place: int, wire_type: int) -> tuple[int, int]:
    """Where a field's value begins (of a number: ends), and where it ends. Raises ``NoMessageError``."""
    if wire_type == _VARINT:
        end = varint_at(content, place)[1]
        return end, end
    if wire_type == BYTES:
        length, place = varint_at(content, place)
    elif wire_type in (_FIXED32, _FIXED64):
        length = 4 if wire_type == _FIXED32 else 8
    else:
        raise NoMessageError
    if place + length > len(content):
        raise NoMessageError
    return place, place + length


def varint_at(content: bytes, place: int) -> tuple[int, int]:
    """A number at a place, and the place behind it. Raises ``NoMessageError``."""
    if place < len(content) and content[place] < 0x80:
        return content[place], place + 1  # as most are
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise NoMessageError
        value |= (content[place] & 0x7F) << shift
        place += 1
        if content[place - 1] < 0x80:
            return value, place
    raise NoMessageError
