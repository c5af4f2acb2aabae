"""What ``generate`` was given, as requests: one prompt or several. A conversation is one prompt; a list of conversations is several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specgrove.serve.errors import ConfigurationError
from specgrove.serve.generation import GenerationConfig, Request

if TYPE_CHECKING:
    from specgrove.client.arguments import Prompt


_Message = Mapping[str, Any]
_Pair = tuple[str, str]
OnePrompt = str | Request | _Message | Sequence[_Message] | Sequence[_Pair] | Sequence[int]
"""For type checkers. A pair alone would be two texts; all else that the clients take is taken, too."""
SeveralPrompts = (
    list[str] | Sequence[Request] | Sequence[Sequence[_Message]] | Sequence[Sequence[_Pair]] | Sequence[Sequence[int]]
)


def requests_of(given: object, defaults: Request) -> tuple[list[Request], bool]:
    """The requests, and whether they were given as several. Where one leaves a setting out, that of ``defaults`` counts.

    Raises ``ConfigurationError``.
    """
    # What is no prompt at all is told by ``Request``.
    if isinstance(given, Request) or _is_prompt(given) or not isinstance(given, Iterable):
        return [_with_defaults(given, defaults)], False
    try:
        elements = list(given)
    except TypeError as error:  # an array without dimensions
        raise ConfigurationError(
            f"prompt: must be a text, messages or token ids, got a {type(given).__name__}"
        ) from error
    if isinstance(given, Iterator) and _is_prompt(elements):
        return [_with_defaults(elements, defaults)], False
    return [_with_defaults(element, defaults) for element in elements], True


def _is_prompt(value: Any) -> bool:
    """A text, a message, messages or token ids; not what holds several prompts."""
    if isinstance(value, (str, bytes, Mapping)) or _is_message(value):
        return True
    is_row = getattr(value, "ndim", None) == 1  # an array, or pandas' Series, whose elements are what a list's would be
    if not is_row and not isinstance(value, (list, tuple, range)):
        return False
    return len(value) > 0 and _is_message_or_id(next(iter(value)))


def _is_message_or_id(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
    is_id = hasattr(value, "__index__") and getattr(value, "ndim", 0) == 0
    return is_pair or is_id or isinstance(value, Mapping) or _is_message(value)


def _is_message(value: Any) -> bool:
    """One of protobuf's, which has no type here: that would bring gRPC's libraries before they are needed."""
    return type(value).__name__ == "ChatMessage"


def _with_defaults(given: Prompt | Request | Any, defaults: Request) -> Request:
    if not isinstance(given, Request):
        return replace(defaults, prompt=given)
    missing = {
        name: getattr(defaults, name)
        for name in ("generation_config", "max_new_tokens", "max_length")
        if getattr(given, name) is None
    }
    if given.max_new_tokens is not None or given.max_length is not None:
        missing = {name: value for name, value in missing.items() if name == "generation_config"}
    return replace(given, **missing)


def config_of(request: Request) -> GenerationConfig:
    """Its own, or the defaults."""
    return request.generation_config or GenerationConfig()
