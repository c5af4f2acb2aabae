"""Refuses messages of very many fields before they are parsed: 1 MiB of empty ones makes half a million objects. Used by ``call_guard``.

Parsing happens on the event loop, and holds every stream up. A look at the fields ends at the first one too many, so it has a bound.
It goes into messages that a message has once, not into the elements of lists: what those may hold is bounded by their size.
"""

from __future__ import annotations

import functools

from google.protobuf.descriptor import Descriptor

from specgrove.errors import InvalidRequestError
from specgrove.serving.undecodable import BYTES, NoMessageError, value_at, varint_at

MAX_NUM_FIELDS = 8192
# Shorter messages are parsed in a few milliseconds, whatever they hold.
_MIN_BYTES = 64 * 1024


def check_num_fields(descriptor: Descriptor, content: bytes) -> None:
    """Raises ``InvalidRequestError`` that names the list that is too long, or says that this is no message."""
    if len(content) < _MIN_BYTES:
        return
    try:
        _count(descriptor, content, "", 0)
    except NoMessageError:
        # The parser is not asked: it would go on behind groups, which are not counted here.
        description = f"its bytes are no {descriptor.full_name} message, or they have groups, of which ours have none"
        raise InvalidRequestError.of("request", description) from None


def _count(descriptor: Descriptor, content: bytes, path: str, num_before: int) -> int:
    """The number of fields, with those counted before."""
    names, inner_by_key = _fields_of(descriptor)
    num_fields, place, size = num_before, 0, len(content)
    while place < size:
        key, start = content[place], place + 1
        # What there may be very many of, a list's elements with a small number, costs few calls.
        if key & 0x87 == BYTES and start < size:
            length, start = (content[start], start + 1) if content[start] < 0x80 else varint_at(content, start)
            place = start + length
            if place > size:
                raise NoMessageError
        else:
            key, start = varint_at(content, place)
            start, place = value_at(content, start, key & 7)
        num_fields += 1
        if num_fields > MAX_NUM_FIELDS:
            name = path + names[key >> 3] if key >> 3 in names else "request"
            raise InvalidRequestError.of(name, f"the request has more than {MAX_NUM_FIELDS} values up to here")
        inner = inner_by_key.get(key)
        if inner is not None:
            num_fields = _count(inner, content[start:place], f"{path}{names[key >> 3]}.", num_fields)
    return num_fields


@functools.cache
def _fields_of(descriptor: Descriptor) -> tuple[dict[int, str], dict[int, Descriptor]]:
    """Names by number, and the descriptors of messages that are there once by what stands before them."""
    names = {field.number: field.name for field in descriptor.fields}
    inner_by_key = {
        field.number << 3 | BYTES: field.message_type
        for field in descriptor.fields
        if field.message_type is not None and not field.is_repeated
    }
    return names, inner_by_key
