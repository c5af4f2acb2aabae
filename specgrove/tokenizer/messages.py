"""Messages of a conversation as chat templates read them, from the forms in which clients send them. Used by ``chat_template``.

Invariant: what is given is not changed. What templates read under different names is given under each; of what they take in one form
only, a content or the arguments of a call, there is a function for each form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

Message = tuple[str, str] | Mapping[str, object]
"""A (role, content) pair, or a mapping with ``role``, ``content`` and what else the chat template reads."""

# The names under which clients send a message's reasoning; the first is what templates read.
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


def message_values(message: Message) -> dict[str, object]:
    """Without values that are None: templates would write "None", or fail; and without an empty list of calls, which means none."""
    if not isinstance(message, Mapping):
        role, content = message
        return {"role": role, "content": content}
    values = {name: value for name, value in message.items() if value is not None and not _is_no_call(name, value)}
    reasoning = next((values[name] for name in _REASONING_NAMES if name in values), None)
    return values if reasoning is None else {"thinking": reasoning, **values, "reasoning_content": reasoning}


def _is_no_call(name: str, value: object) -> bool:
    """Some templates look only for whether there is such a list."""
    return name == "tool_calls" and isinstance(value, list | tuple) and not value


def content_parts(text: str) -> list[dict[str, str]]:
    """A content as the list of its parts."""
    return [{"type": "text", "text": text}]


def with_parts(message: Mapping[str, object]) -> dict[str, object]:
    """The message, with its content as the list of its parts."""
    content = message.get("content")
    return {**message, "content": content_parts(content)} if isinstance(content, str) else dict(message)


def with_calls(
    message: Mapping[str, object], form: Callable[[object], object], empty_content: str | None
) -> dict[str, object]:
    """The message, with the arguments of its calls of tools in a form (``argument_object`` or ``argument_text``).

    ``empty_content`` takes the place of an empty content beside calls: some templates look for calls only where it is None.
    """
    values = dict(message)
    if isinstance(calls := values.get("tool_calls"), list | tuple):
        values["tool_calls"] = [_with_function(call, form) for call in calls]
        if calls and not values.get("content"):
            values["content"] = empty_content
    if isinstance(call := values.get("function_call"), Mapping):
        values["function_call"] = _formed(call, form)
    return values


def argument_object(arguments: object) -> object:
    """OpenAI's API has them as JSON in a text; most templates write objects as JSON, and texts once more as such."""
    if not isinstance(arguments, str):
        return arguments
    try:
        values = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return values if isinstance(values, dict) else arguments


def argument_text(arguments: object) -> object:
    """For templates that put them into the text as they are."""
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else arguments


def _with_function(call: object, form: Callable[[object], object]) -> object:
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _formed(function, form)}
    return _formed(call, form)


def _formed(function: Mapping[str, object], form: Callable[[object], object]) -> Mapping[str, object]:
    return {**function, "arguments": form(function["arguments"])} if "arguments" in function else function
