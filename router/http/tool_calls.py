"""Calls of tools in an output's text, in the form that the templates of Qwen, Hermes and SmolLM ask for. Used by ``chat``.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

Invariant: what is no such call is text, so that nothing that the model wrote is lost; joined, pieces give what the whole text gives.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

_START, _END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is JSON in a text, as in OpenAI's API; ``number`` counts the calls of one output."""

    number: int
    id: str
    name: str
    arguments: str


class ToolCallReader:
    """One per output. Blanks around calls are the form's, not the text's."""

    def __init__(self) -> None:
        self._held = ""
        self._is_behind_call = False
        self.num_calls = 0

    def add(self, text: str, *, is_end: bool = False) -> tuple[str, list[ToolCall]]:
        """The text that is certain now, and the calls that are complete."""
        self._held += text
        certain, calls = "", []
        while (start := self._held.find(_START)) >= 0 and (end := self._held.find(_END, start)) >= 0:
            call = self._call_of(self._held[start + len(_START) : end])
            if call is None:
                certain += self._take(end + len(_END))
            else:
                certain += self._take(start).rstrip()
                self._held = self._held[end - start + len(_END) :]
                self._is_behind_call = True
                calls.append(call)
        return certain + self._take(len(self._held) - (0 if is_end else self._held_len())), calls

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        if self._is_behind_call:
            text = text.lstrip()
            self._is_behind_call = not text
        return text

    def _held_len(self) -> int:
        """How much of the end may be, or begin, a call, with the blanks before it."""
        start = self._held.find(_START)
        if start < 0:
            longest = min(len(_START) - 1, len(self._held))
            begun = next((size for size in range(longest, 0, -1) if self._held.endswith(_START[:size])), 0)
            start = len(self._held) - begun
        return len(self._held) - len(self._held[:start].rstrip())

    def _call_of(self, text: str) -> ToolCall | None:
        try:
            values = json.loads(text)
            name, arguments = values["name"], values.get("arguments", {})
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return None
        if not isinstance(name, str):
            return None
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        number, self.num_calls = self.num_calls, self.num_calls + 1
        return ToolCall(number, f"call_{uuid.uuid4().hex[:24]}", name, arguments)
