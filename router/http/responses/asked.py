"""What was sent to ``/v1/responses`` as a conversation: its items become messages. Used by ``app``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.http.asking import AskedPrompt, asked_chat
from router.http.bodies import ChatBody, Generation
from router.http.errors import SentNames
from router.http.refused import changes_nothing, refusals
from router.http.responses.bodies import ResponsesBody
from specgrove.client.json_values import check_json
from specgrove.errors import InvalidRequestError

# Metadata is for the answer alone.
_SAME = (*(Generation.model_fields.keys() - {"metadata"}), "parallel_tool_calls", "chat_template_kwargs")
_OF_TEXT = ("format", "verbosity")
_REASONING = "reasoning_content"
# The answer has them as they were sent: an answer that can't be written would be found out at its end.
_REPEATED = ("metadata", "text", "tools", "tool_choice")
_TEXT_TYPES = ("input_text", "output_text", "text")
# What the assistant refused with is what it said.
_TEXT_NAMES = {"refusal": "refusal", **dict.fromkeys(_TEXT_TYPES, "text")}
_Message = dict[str, Any]


def asked_response(
    body: ResponsesBody, *, keeps_special_tokens: bool, recommended: Mapping[str, float] | None = None
) -> AskedPrompt:
    """``recommended`` as for ``asked_chat``. Raises ``InvalidRequestError``."""
    for name in _REPEATED:
        check_json(name, getattr(body, name))
    messages = _messages_of(body)
    chat = ChatBody(
        messages=[message for _, message in messages],
        max_completion_tokens=body.max_output_tokens,
        tools=chat_tools(body),
        tool_choice=_chat_tool_choice(body.tool_choice),
        response_format=_response_format(body.text),
        **{name: getattr(body, name) for name in _SAME},
    )
    names = SentNames(
        "input",
        max_tokens="max_output_tokens",
        has_one_stop=isinstance(body.stop, str),
        messages=tuple(name for name, _ in messages),
        response_format="text.format",
    )
    return asked_chat(chat, keeps_special_tokens=keeps_special_tokens, names=names, recommended=recommended)


def chat_tools(body: ResponsesBody) -> list[_Message]:
    """The tools as chat templates read them. Raises ``InvalidRequestError``."""
    if not isinstance(body.tools or [], list):
        raise InvalidRequestError.of("tools", "must be a list of objects")
    return [_chat_tool(f"tools[{index}]", tool) for index, tool in enumerate(body.tools or [])]


def _chat_tool_choice(choice: object) -> object:
    """A function is named one level higher here."""
    match choice:
        case {"type": "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case _:
            return choice


def _response_format(text: object) -> object:
    """As chat completions have it: the schema's keys are one level lower there."""
    if text is None:
        return None
    if not isinstance(text, Mapping) or {name for name, value in text.items() if value is not None} - set(_OF_TEXT):
        raise InvalidRequestError.of("text", f"must be an object with {' and '.join(_OF_TEXT)}, and nothing else")
    verbosity = text.get("verbosity")
    if verbosity is not None and not changes_nothing("verbosity", verbosity):
        raise InvalidRequestError.of("text.verbosity", refusals()["verbosity"])
    match text.get("format"):
        case {"type": "json_schema", **keys}:
            return {"type": "json_schema", "json_schema": keys}
        case other:
            return other


def _chat_tool(name: str, tool: object) -> _Message:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        given = tool.get("type") if isinstance(tool, Mapping) else tool
        raise InvalidRequestError.of(
            name, f"must be a function, {{'type': 'function', 'name': ...}}, got {given!r:.64}"
        )
    # Those of chat completions have it one level lower; the model would be shown a tool without a name.
    if not _text(name, tool, "name"):
        raise InvalidRequestError.of(f"{name}.name", "is empty")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _messages_of(body: ResponsesBody) -> list[tuple[str, _Message]]:
    """Messages with the names of the items that they were made of."""
    messages: list[tuple[str, _Message]] = []
    if body.instructions is not None:
        messages.append(("instructions", {"role": "system", "content": body.instructions}))
    if isinstance(body.input, str):
        return [*messages, ("input", {"role": "user", "content": body.input})]
    if not isinstance(body.input, list) or not body.input:
        raise InvalidRequestError.of("input", "must be a text or a list of items, e.g. messages")
    reasoning = ""
    for index, item in enumerate(body.input):
        name = f"input[{index}]"
        if isinstance(item, Mapping) and item.get("type") == "reasoning":
            reasoning = _joined(reasoning, _reasoning_of(name, item))
            continue
        message = _message_of(name, item)
        if reasoning and message["role"] == "assistant":
            message[_REASONING] = reasoning
        reasoning = ""
        if _continues(messages, message):
            messages[-1][1].setdefault("tool_calls", []).extend(message.pop("tool_calls"))
            if thought := message.get(_REASONING):
                messages[-1][1][_REASONING] = _joined(messages[-1][1].get(_REASONING, ""), thought)
        else:
            messages.append((name, message))
    if not messages:
        raise InvalidRequestError.of("input", "holds no message")
    return messages


def _joined(first: str, second: str) -> str:
    return "\n".join(text for text in (first, second) if text)


def _reasoning_of(name: str, item: Mapping[str, object]) -> str:
    """What was thought before the next item, which templates may read with it: itself or, where that isn't there, its summary."""
    for key in ("content", "summary"):
        parts = item.get(key) or []
        if not isinstance(parts, list) or not all(
            isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts
        ):
            raise InvalidRequestError.of(f"{name}.{key}", "must be a list of parts with text")
        if text := "\n".join(part["text"] for part in parts):
            return text
    return ""


def _continues(messages: list[tuple[str, _Message]], message: _Message) -> bool:
    """Whether it belongs to the message before: what an answer says and the calls that follow are items of their own here."""
    return "tool_calls" in message and bool(messages) and messages[-1][1]["role"] == "assistant"


def _message_of(name: str, item: object) -> _Message:
    if not isinstance(item, Mapping):
        raise InvalidRequestError.of(name, "must be an object")
    match item.get("type") or "message":
        case "message":
            role, content = _text(name, item, "role"), item.get("content")
            is_empty = role == "assistant" and content is None
            return {"role": role, "content": "" if is_empty else _text_of(f"{name}.content", content)}
        case "function_call":
            call_id, function, arguments = (_text(name, item, key) for key in ("call_id", "name", "arguments"))
            call = {"id": call_id, "type": "function", "function": {"name": function, "arguments": arguments}}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case "function_call_output":
            output = _text_of(f"{name}.output", item.get("output"))
            return {"role": "tool", "tool_call_id": _text(name, item, "call_id"), "content": output}
        case other:
            description = f"must be message, function_call, function_call_output or reasoning, got {other!r:.64}"
            raise InvalidRequestError.of(f"{name}.type", description)


def _text(name: str, item: Mapping[str, object], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError.of(f"{name}.{key}", "is missing" if value is None else "must be a text")
    return value


def _text_of(name: str, content: object) -> str:
    """The text of a message's content, which is a text, or a list of parts that are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError.of(name, "is missing" if content is None else "must be a text or a list of parts")
    return "\n".join(_part_text(f"{name}[{index}]", part) for index, part in enumerate(content))


def _part_text(name: str, part: object) -> str:
    if isinstance(part, Mapping) and isinstance(kind := part.get("type"), str) and kind in _TEXT_NAMES:
        text = part.get(_TEXT_NAMES[kind])
        if isinstance(text, str):
            return text
    raise InvalidRequestError.of(name, "must be a part of text, {'type': 'input_text', 'text': ...}")
