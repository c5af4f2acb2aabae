"""Messages of a conversation as chat templates read them, from the forms in which clients send them. Used by ``chat_template``.

Invariant: what is given is not changed; what templates of different models read differently is given in every form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

Message = tuple[str, str] | Mapping[str, object]
"""A (role, content) pair, or a mapping with ``role``, ``content`` and what else the chat template reads."""

# The names under which clients send a message's reasoning; the first is what templates read.
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


def message_values(message: Message) -> dict[str, object]:
    """Without values that are None: templates would write "None", or fail. Arguments of tools' calls are objects."""
    if not isinstance(message, Mapping):
        role, content = message
        return {"role": role, "content": content}
    values = {name: value for name, value in message.items() if value is not None}
    reasoning = next((values[name] for name in _REASONING_NAMES if name in values), None)
    if reasoning is not None:
        values = {"thinking": reasoning, **values, "reasoning_content": reasoning}
    if isinstance(calls := values.get("tool_calls"), list | tuple):
        values["tool_calls"] = [_with_function(call) for call in calls]
    if isinstance(call := values.get("function_call"), Mapping):
        values["function_call"] = _with_arguments(call)
    return values


def content_parts(text: str) -> list[dict[str, str]]:
    """A content as the list of its parts."""
    return [{"type": "text", "text": text}]


def with_parts(message: Mapping[str, object]) -> dict[str, object]:
    """The message, with its content as the list of its parts."""
    content = message.get("content")
    return {**message, "content": content_parts(content)} if isinstance(content, str) else dict(message)


def _with_function(call: object) -> object:
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _with_arguments(function)}
    return _with_arguments(call)


def _with_arguments(function: Mapping[str, object]) -> Mapping[str, object]:
    """OpenAI's API has the arguments as JSON in a text; templates write objects as JSON, and texts once more as such."""
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return function
    try:
        values = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return function
    return {**function, "arguments": values} if isinstance(values, dict) else function
