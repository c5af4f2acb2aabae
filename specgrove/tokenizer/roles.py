"""Roles of messages that a chat template doesn't know, and would leave out without a word. Used by ``chat_template``.

OpenAI's newer clients write ``developer`` where others write ``system``, and send several such messages, of which many templates take the
first alone. Invariant: a message reaches the text, or its role is an error.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

Conversation = Sequence[Mapping[str, object]]

# These are what templates are made for; what they do with them is theirs to say.
_USUAL = ("user", "assistant", "system")
_DEVELOPER = "developer"
_INSTRUCTIONS = ("system", _DEVELOPER)
_OTHER = "specgrove"
_FIRST, _GREETING, _WORD = "Beforehand", "Hello", "Certainly"
_MAX_NUM_OTHER_ROLES = 8  # of one conversation: each is tried


class KnownRoles:
    """What one template does with messages of each role. Immutable."""

    def __init__(self, tried: Callable[[Conversation], str]) -> None:
        """``tried`` gives the text of a conversation, and nothing where the template fails at it."""
        self._tried = tried
        # What was found of a role is kept: trying takes as long as a conversation.
        self._leaves_out = functools.lru_cache(64)(self._find_left_out)
        self._loses = functools.lru_cache(64)(self._find_lost)
        self._takes_all = self._takes(_OTHER)
        self._takes_developer = self._takes_all or self._takes(_DEVELOPER)

    def known(self, conversation: Conversation) -> Conversation:
        """The conversation with roles that the template knows. Raises ``ValueError`` where it would leave messages out."""
        if not self._takes_developer:
            conversation = [_as_system(message) for message in conversation]
        conversation = self._with_instructions(conversation)
        if self._takes_all:
            return conversation
        others = dict.fromkeys(role for message in conversation if (role := str(message.get("role"))) not in _USUAL)
        if len(others) > _MAX_NUM_OTHER_ROLES:
            raise ValueError(
                f"the conversation has {len(others)} roles besides {', '.join(_USUAL)}; at most {_MAX_NUM_OTHER_ROLES}"
            )
        for role in others:
            if self._leaves_out(role):
                raise ValueError(f"the chat template leaves out messages of the role {role!r}")
        return conversation

    def _with_instructions(self, conversation: Conversation) -> Conversation:
        """Those that lead are one message where the template takes only one. Raises ``ValueError`` where it loses one for a later one."""
        given = list(conversation)
        roles = [str(message.get("role")) for message in given]
        num_leading = len(list(itertools.takewhile(lambda role: role in _INSTRUCTIONS, roles)))
        first = roles[0] if num_leading else None
        contents = [content for message in given[:num_leading] if isinstance(content := message.get("content"), str)]
        if 1 < num_leading == len(contents) and any(self._loses(first, role, 1) for role in set(roles[1:num_leading])):
            given[:num_leading] = [{**given[0], "content": "\n\n".join(contents)}]
        for role in dict.fromkeys(roles[num_leading:]):
            if role in _INSTRUCTIONS and self._loses(first, role, 3):
                raise ValueError(
                    f"the chat template leaves out messages of the role {role!r} that are not the first, or the first for them"
                )
        return given

    def _takes(self, role: str) -> bool:
        return any(_WORD in self._tried(conversation) for conversation in _conversations(role))

    def _find_lost(self, first: str | None, role: str, place: int) -> bool:
        """Of instructions at a place and those that the conversation begins with. Where the template fails nothing is lost in silence."""
        text = self._tried(_instructed(first, role, place))
        # Several that lead can be joined: where the template fails at them, too.
        return not _all_in(text, first) and (place == 1 or _GREETING in text)

    def _find_left_out(self, role: str) -> bool:
        """One that the template fails at is no silence: the request itself is told why."""
        texts = [self._tried(conversation) for conversation in _conversations(role)]
        return any(_GREETING in text for text in texts) and not any(_WORD in text for text in texts)


def _as_system(message: Mapping[str, object]) -> Mapping[str, object]:
    return {**message, "role": "system"} if message.get("role") == _DEVELOPER else message


def _all_in(text: str, first: str | None) -> bool:
    return _WORD in text and (first is None or _FIRST in text)


def _instructed(first: str | None, role: str, place: int) -> Conversation:
    """A conversation with instructions at a place, and some at its beginning where ``first`` is their role."""
    beginning = [] if first is None else [{"role": first, "content": _FIRST}]
    talk = [*beginning, *({"role": other, "content": _GREETING} for other in ("user", "assistant", "user"))]
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
