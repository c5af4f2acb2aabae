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
    """Raises ``InvalidRequestError`` that names the list that is too long. What is no message at all is left to the parser."""
    if len(content) < _MIN_BYTES:
        return
    try:
        _count(descriptor, content, "", 0)
    except NoMessageError:
        return


def _count(descriptor: Descriptor, content: bytes, path: str, num_before: int) -> int:
    """The number of fields, with those counted before."""
    fields = _fields_of(descriptor)
    num_fields, place = num_before, 0
    while place < len(content):
        key, place = varint_at(content, place)
        value, place = value_at(content, place, key & 7)
        name, inner = fields.get(key >> 3, (None, None))
        num_fields += 1
        if num_fields > MAX_NUM_FIELDS:
            name = "request" if name is None else path + name
            raise InvalidRequestError.of(name, f"the request has more than {MAX_NUM_FIELDS} values up to here")
        if inner is not None and key & 7 == BYTES:
            num_fields = _count(inner, value, f"{path}{name}.", num_fields)
    return num_fields


@functools.cache
def _fields_of(descriptor: Descriptor) -> dict[int, tuple[str, Descriptor | None]]:
    """By number the name, and of a message that is there once its descriptor."""
    return {
        field.number: (field.name, None if field.is_repeated else field.message_type) for field in descriptor.fields
    }
