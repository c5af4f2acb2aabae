"""Strategies of hypothesis for requests: any message of a descriptor, bytes that are none, and messages that were good once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_MAX_LIST_LEN = 5
_LONG_LIST_LENS = (64, 1025, 5000)
_MAX_LONG_BYTES = 50_000
_F = FieldDescriptor

_NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_UINT32: st.sampled_from([0, 1, 2, 3, 255, 256, 257, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1),
    _F.TYPE_UINT64: st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    _F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_SINT32: st.sampled_from([-1, 0, 1, -2, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_FLOAT: st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-40]) | st.floats(width=32),
    _F.TYPE_DOUBLE: st.floats(),
    _F.TYPE_STRING: st.sampled_from(["", "\0", "x" * 300, "{", "[" * 2000, '{"a": 1}', "(" * 200, "a{1,9999}"])
    | st.text(max_size=20),
    _F.TYPE_BYTES: st.binary(max_size=40),
}


def value_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One element of a field."""
    if field.message_type is not None:
        return any_message(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([0, 1, 2, 77])
    return _NUMBERS[field.type]


def _elements(field: FieldDescriptor) -> st.SearchStrategy[list[Any]]:
    one = value_of(field)
    short = st.lists(one, max_size=_MAX_LIST_LEN)
    return st.one_of(short, short, short, st.builds(_repeated, one, st.sampled_from(_LONG_LIST_LENS)))


def _repeated(element: Any, length: int) -> list[Any]:
    """So often, or as often as makes a message of a size that is worth sending."""
    num_bytes = element.ByteSize() if isinstance(element, Message) else 1
    return [element] * min(length, _MAX_LONG_BYTES // max(num_bytes, 1))


@functools.cache
def any_message(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Any fields with any values."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if draw(st.integers(0, 2)) > 0:
                _set(message, field, draw)
        return message

    return build()


def _set(message: Any, field: FieldDescriptor, draw: st.DrawFn) -> None:
    message.ClearField(field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for entry in draw(st.lists(st.tuples(value_of(key), value_of(value)), max_size=_MAX_LIST_LEN)):
            if value.message_type is None:
                getattr(message, field.name)[entry[0]] = entry[1]
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(_elements(field)))
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(draw(value_of(field)))
    else:
        setattr(message, field.name, draw(value_of(field)))


def damaged(good: Callable[[], Message]) -> st.SearchStrategy[Message]:
    """A message that would be served, with some of its fields, at any depth, replaced."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message = good()
        for _ in range(draw(st.integers(0, 3))):
            _damage(message, draw)
        return message

    return build()


def _damage(message: Any, draw: st.DrawFn) -> None:
    if not message.DESCRIPTOR.fields:
        return
    field = draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    is_message = field.message_type is not None and not field.message_type.GetOptions().map_entry
    if is_message and draw(st.booleans()):
        inner = getattr(message, field.name)
        if not field.is_repeated:
            _damage(inner, draw)
            return
        if len(inner):
            _damage(inner[draw(st.integers(0, len(inner) - 1))], draw)
            return
    _set(message, field, draw)


def no_message(good: Callable[[], Message]) -> st.SearchStrategy[bytes]:
    """Bytes: any, or those of a message with some of them exchanged, left out or put in."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        content = bytearray(good().SerializeToString())
        for _ in range(draw(st.integers(1, 4))):
            place = draw(st.integers(0, len(content)))
            content[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        return bytes(content)

    return st.one_of(st.binary(max_size=60), build())
