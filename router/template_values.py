"""What clients give chat templates as JSON, messages' attributes and template variables: checked, and turned into Python's values.

Used by ``prompts``. JSON keeps what a protobuf ``Struct`` loses: the order of names, in which templates write tools, and whole numbers.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def template_values(text: str) -> dict[str, object]:
    """An object's values by name; none where ``text`` is empty. Raises ``ValueError`` that says what is wrong."""
    if not text:
        return {}
    try:
        values = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _HALF_CHARACTER.search(text):
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair, which is no valid Unicode") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("must be a JSON object, {...}")
    return values


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"holds {constant}, which is no number in JSON")


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError(f"holds {written[:32]}, which is beyond all floats")
    return number
