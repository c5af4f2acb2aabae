"""Texts that callers of the clients give, checked, and short names of values that don't belong where they are."""

from __future__ import annotations

from specgrove.errors import InvalidRequestError

# Python writes no numbers of more than some thousand digits.
_MAX_SHOWN = 10**40


def text_of(field: str, value: object) -> str:
    """The text, where it is one that can be sent."""
    if not isinstance(value, str):
        raise InvalidRequestError.of(field, f"must be a text, got {named(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        description = f"is no valid Unicode: half a surrogate pair at character {error.start}"
        raise InvalidRequestError.of(field, description) from error
    return value


def named(value: object) -> str:
    """A short name of a value."""
    if isinstance(value, str):
        return f"the text {value[:32]!r}"
    if isinstance(value, int) and abs(value) > _MAX_SHOWN:
        return "a number of very many digits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"
