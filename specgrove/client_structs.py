"""What chat templates are given besides texts, messages' attributes and template variables: Python values to a protobuf ``Struct``.

Used by ``client_wire`` and ``client_arguments``. Invariant: what arrives is what was given, or ``InvalidRequestError`` names the place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from specgrove.client_texts import named, text_of
from specgrove.errors import InvalidRequestError

# A message may be nested a hundred levels deep, of which an object takes three.
_MAX_DEPTH = 28
# A Struct's numbers are float64.
_MAX_WHOLE = 2**53


def set_struct(struct: struct_pb2.Struct, field: str, values: object) -> None:
    """Adds ``values``, a mapping of names to what JSON can hold; numpy's scalars and arrays are taken, too."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError.of(field, f"must be a mapping of names to values, got {named(values)}")
    _set_fields(struct, field, values, 1)


def _set_fields(struct: struct_pb2.Struct, field: str, values: Mapping[Any, Any], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidRequestError.of(field, f"is nested too deeply, or holds itself; at most {_MAX_DEPTH} levels")
    struct.SetInParent()
    for name, value in values.items():
        if not isinstance(name, str):
            raise InvalidRequestError.of(field, f"names must be texts, got {named(name)}")
        _set_value(struct.fields[text_of(field, name)], f"{field}.{name}", value, depth)


def _set_value(proto: struct_pb2.Value, field: str, value: object, depth: int) -> None:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None:
        proto.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        proto.bool_value = value
    elif isinstance(value, str):
        proto.string_value = text_of(field, value)
    elif isinstance(value, Mapping):
        _set_fields(proto.struct_value, field, value, depth + 1)
    elif isinstance(value, (list, tuple)):
        if depth >= _MAX_DEPTH:
            raise InvalidRequestError.of(field, f"is nested too deeply, or holds itself; at most {_MAX_DEPTH} levels")
        proto.list_value.SetInParent()
        for index, element in enumerate(value):
            _set_value(proto.list_value.values.add(), f"{field}[{index}]", element, depth + 1)
    else:
        proto.number_value = _number_of(field, value)


def _number_of(field: str, value: Any) -> float:
    try:
        whole = operator.index(value)
    except TypeError:
        pass
    else:
        if abs(whole) > _MAX_WHOLE:
            raise InvalidRequestError.of(
                field, "is beyond 2^53, where whole numbers are not kept exactly: send it as text"
            )
        return float(whole)
    if not hasattr(value, "__float__"):
        raise InvalidRequestError.of(field, f"must be what JSON can hold, got {named(value)}")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidRequestError.of(field, f"must be a finite number, got {number:g}")
    return number
