"""What chat templates are given besides texts, messages' attributes and template variables: Python values as JSON.

Used by ``wire`` and ``arguments``. Invariant: what arrives is what was given, in its order, or ``InvalidRequestError``
names the place.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from typing import Any

from specgrove.client.texts import named, text_of
from specgrove.errors import InvalidRequestError

# Far more than tools and their arguments have; and what holds itself has an end here.
_MAX_DEPTH = 64
_MAX_WHOLE = 10**1000


def json_object(field: str, values: object) -> str:
    """``values`` is a mapping of names to what JSON can hold; numpy's scalars and arrays are taken, too."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError.of(field, f"must be a mapping of names to values, got {named(values)}")
    return json.dumps(_object_of(field, values, 1), ensure_ascii=False, separators=(",", ":"))


def check_json(field: str, value: object) -> None:
    """Raises ``InvalidRequestError`` for what JSON can't hold, e.g. NaN or half a character."""
    _value_of(field, value, 1)


def _object_of(field: str, values: Mapping[Any, Any], depth: int) -> dict[str, object]:
    found = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise InvalidRequestError.of(field, f"names must be texts, got {named(name)}")
        found[text_of(field, name)] = _value_of(f"{field}.{name}", value, depth)
    return found


def _value_of(field: str, value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        raise InvalidRequestError.of(field[:100], f"is nested too deeply, or holds itself; at most {_MAX_DEPTH} levels")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text_of(field, value)
    if isinstance(value, Mapping):
        return _object_of(field, value, depth + 1)
    if isinstance(value, (list, tuple)):
        return [_value_of(f"{field}[{index}]", element, depth + 1) for index, element in enumerate(value)]
    return _number_of(field, value)


def _number_of(field: str, value: Any) -> int | float:
    try:
        whole = operator.index(value)
    except TypeError:
        pass
    else:
        if abs(whole) > _MAX_WHOLE:
            raise InvalidRequestError.of(field, "is a number of too many digits: send it as text")
        return whole
    if not hasattr(value, "__float__"):
        raise InvalidRequestError.of(field, f"must be what JSON can hold, got {named(value)}")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidRequestError.of(field, f"must be a finite number, got {number:g}")
    return number
