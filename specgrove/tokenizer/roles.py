"""Roles of messages that a chat template doesn't know, and would leave out without a word. Used by ``chat_template``.

OpenAI's newer clients write ``developer`` where others write ``system``, and send several such messages, of which many templates take the
first alone. Invariant: a message reaches the text, or its role is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

Conversation = Sequence[Mapping[str, object]]

# These are what templates are made for; what they do with them is theirs to say.
_USUAL = ("user", "assistant", "system")
_DEVELOPER = "developer"
_INSTRUCTIONS = ("system", _DEVELOPER)
_OTHER = "specgrove"
_GREETING, _WORD = "Hello", "Certainly"


class KnownRoles:
    """What one template does with messages of each role. Immutable."""

    def __init__(self, tried: Callable[[Conversation], str]) -> None:
        """``tried`` gives the text of a conversation, and nothing where the template fails at it."""
        self._tried = tried
        self._takes_all = self._takes(_OTHER)
        self._takes_developer = self._takes_all or self._takes(_DEVELOPER)

    def known(self, conversation: Conversation) -> Conversation:
        """The conversation with roles that the template knows. Raises ``ValueError`` where it would leave messages out."""
        if not self._takes_developer:
            conversation = [_as_system(message) for message in conversation]
        conversation = self._with_instructions(conversation)
        if self._takes_all:
            return conversation
        for role in dict.fromkeys(str(message.get("role")) for message in conversation):
            if role not in _USUAL and self._leaves_out(role):
                raise ValueError(f"the chat template leaves out messages of the role {role!r}")
        return conversation

    def _with_instructions(self, conversation: Conversation) -> Conversation:
        """Those that lead are one message where the template doesn't take several. Raises ``ValueError`` where it leaves out later ones."""
        given = list(conversation)
        role = given[0].get("role") if given else None
        leading = list(itertools.takewhile(lambda message: message.get("role") == role, given))
        contents = [content for message in leading if isinstance(content := message.get("content"), str)]
        is_many = role in _INSTRUCTIONS and 1 < len(leading) == len(contents)
        if is_many and _WORD not in self._tried(_instructed(str(role), 1)):
            given[: len(leading)] = [{**leading[0], "content": "\n\n".join(contents)}]
        for role in dict.fromkeys(str(message.get("role")) for message in given[1:]):
            if role in _INSTRUCTIONS and _GREETING in (text := self._tried(_instructed(role, 3))) and _WORD not in text:
                raise ValueError(f"the chat template leaves out messages of the role {role!r} that are not the first")
        return given

    def _takes(self, role: str) -> bool:
        return any(_WORD in self._tried(conversation) for conversation in _conversations(role))

    def _leaves_out(self, role: str) -> bool:
        """One that the template fails at is no silence: the request itself is told why."""
        texts = [self._tried(conversation) for conversation in _conversations(role)]
        return any(_GREETING in text for text in texts) and not any(_WORD in text for text in texts)


def _as_system(message: Mapping[str, object]) -> Mapping[str, object]:
    return {**message, "role": "system"} if message.get("role") == _DEVELOPER else message


def _instructed(role: str, place: int) -> Conversation:
    """A conversation that begins with instructions, and has some more at a place."""
    talk = [{"role": other, "content": _GREETING} for other in (role, "user", "assistant", "user")]
    return [*talk[:place], {"role": role, "content": _WORD}, *talk[place:]]


def _conversations(role: str) -> tuple[Conversation, ...]:
    """Some that have a message of a role: at the beginning, at the end, and as the answer of a tool that was called."""
    message = {"role": role, "content": _WORD, "name": "say", "tool_call_id": "call00000"}
    greeting = {"role": "user", "content": _GREETING}
    function = {"name": "say", "arguments": {}}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00000", "type": "function", "function": function}],
    }
    return (message, greeting), (greeting, message), (greeting, call, message)
