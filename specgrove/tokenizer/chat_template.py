"""A model's chat templates: compiled once, rendered as transformers' ``apply_chat_template`` renders them. Used by ``Tokenizer``.

Invariant: whatever a template does with a conversation, a ``ValueError`` says so, and no other exception leaves ``render``. A template
that can't be used forbids conversations only.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from specgrove.tokenizer.messages import (
    Message,
    argument_object,
    argument_text,
    content_parts,
    message_values,
    with_calls,
    with_parts,
)
from specgrove.tokenizer.roles import Conversation, KnownRoles


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation is rendered."""

    add_generation_prompt: bool = True
    """Whether the text ends with what opens an answer."""
    continue_final_message: bool = False
    """Whether it ends where the last message's content does."""
    template_kwargs: Mapping[str, object] = field(default_factory=dict)
    """Variables that the template may read, e.g. ``enable_thinking``; the conversation itself is none of them."""
    has_control_tokens: bool = False
    """Whether special tokens that the messages write out are such; else they are text."""


# Marks the end of a message that is to be continued. The space shows whether the template trims what it is given.
_END_OF_FINAL_MESSAGE = "\ue000end of the final message\ue000 "
# A text of any model's context is shorter. Both bound what a template may do with a conversation, for which it takes milliseconds.
_MAX_RENDERED_LEN = 1 << 25
_MAX_RENDER_S = 10.0
_ANSWER = "Certainly"
_ARGUMENTS = {"word": _ANSWER}


class ChatTemplates:
    """The templates by name: ``default``, and ``tool_use`` for conversations with tools. Immutable."""

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """``special_tokens`` are variables of the templates: ``bos_token`` and its like."""
        self._special_tokens = dict(special_tokens)
        self._templates: dict[str, _Template] = {}
        self._problems: dict[str, str] = {}
        self._sources = dict(templates)
        for name, source in templates.items():
            try:
                self._templates[name] = _Template(_compile(source), self._special_tokens)
            except Exception as error:
                self._problems[name] = f"the model's chat template can't be used: {_told(error)}"

    @property
    def is_broken(self) -> bool:
        """Whether there are templates, but none that conversations can be rendered with."""
        return "default" not in self._templates and bool(self._templates or self._problems)

    @property
    def problem(self) -> str | None:
        """Why no conversation can be rendered; None where it can."""
        if "default" in self._templates:
            return None
        instead = "send the prompt as raw text"
        if "default" in self._problems:
            return f"{self._problems['default']}; {instead}"
        if names := sorted({*self._templates, *self._problems}):
            return f"this model has no chat template of the name 'default', only {', '.join(names)}; {instead}"
        return f"this model has no chat template; {instead}"

    @property
    def source_for_tools(self) -> str:
        """Of the template for conversations with tools; empty where there is none."""
        return self._sources.get("tool_use", self._sources.get("default", ""))

    def render(self, messages: Sequence[Message], options: ChatOptions) -> str:
        """The text of a conversation. Raises ``ValueError``."""
        conversation = [message_values(message) for message in messages]
        if options.continue_final_message:
            content = conversation[-1].get("content")
            if not isinstance(content, str):
                raise ValueError("the final message has no text that could be continued")
            conversation[-1]["content"] = f"{content}{_END_OF_FINAL_MESSAGE}"
        variables: dict[str, object] = {"tools": None, "documents": None}
        variables.update(options.template_kwargs)
        variables["add_generation_prompt"] = options.add_generation_prompt
        text = self._template_for(variables["tools"]).render(conversation, variables)
        return _before_end(text) if options.continue_final_message else text

    def end_of_turn(self, tokens: Iterable[str]) -> str | None:
        """That of ``tokens`` with which the template ends an answer; None where it ends it with none of them."""
        try:
            text = self.render([("user", "Hello"), ("assistant", _ANSWER)], ChatOptions(add_generation_prompt=False))
        except ValueError:
            return None
        after = text.rpartition(_ANSWER)[2].lstrip()
        return max((token for token in tokens if token and after.startswith(token)), key=len, default=None)

    def _template_for(self, tools: object) -> _Template:
        for name in ("tool_use", "default") if tools is not None else ("default",):
            if name in self._templates:
                return self._templates[name]
            if name in self._problems:
                raise ValueError(self._problems[name])
        raise ValueError(self.problem)


class _Template:
    """A template, and the forms in which it takes what others take otherwise.

    Some look at contents as lists of parts only, and would leave texts out. Some put the arguments of calls into the text as they are,
    and some show calls only where there is no content, not even an empty one.
    """

    def __init__(self, template: jinja2.Template, special_tokens: Mapping[str, str]) -> None:
        self._template = template
        self._special_tokens = special_tokens
        is_for_texts, is_for_parts = (
            _ANSWER in self._tried(_question(form)) for form in (_ANSWER, content_parts(_ANSWER))
        )
        self._takes_parts = is_for_parts and not is_for_texts
        self._argument_form, self._empty_content = self._form_of_calls()
        self._roles = KnownRoles(lambda conversation: self._tried(self._formed(conversation)))

    def _form_of_calls(self) -> tuple[Callable[[object], object], str | None]:
        written = str(argument_text(_ARGUMENTS))
        for content in ("", None):
            as_object = self._tried(_call(_ARGUMENTS, content))
            if _ANSWER in as_object and repr(_ARGUMENTS) not in as_object:
                return argument_object, content
            if written in self._tried(_call(written, content)):
                return argument_text, content
        return argument_object, ""

    def render(self, conversation: Sequence[Mapping[str, object]], variables: Mapping[str, object]) -> str:
        """Raises ``ValueError``."""
        return self._render(self._formed(self._roles.known(conversation)), variables)

    def _formed(self, conversation: Conversation) -> Conversation:
        formed = [with_calls(message, self._argument_form, self._empty_content) for message in conversation]
        return [with_parts(message) for message in formed] if self._takes_parts else formed

    def _render(self, conversation: Sequence[Mapping[str, object]], variables: Mapping[str, object]) -> str:
        try:
            return _bounded(self._template.generate({**self._special_tokens, **variables, "messages": conversation}))
        except _EndlessError as error:
            raise ValueError(f"the chat template makes {error} of these messages") from error
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template rejects these messages: {error}") from error
        except Exception as error:
            raise ValueError(f"the chat template fails at these messages: {_told(error)}") from error

    def _tried(self, conversation: Sequence[Mapping[str, object]]) -> str:
        """The text of a conversation as it is given; empty where the template fails."""
        try:
            return self._render(conversation, {"tools": None, "documents": None, "add_generation_prompt": True})
        except ValueError:
            return ""


class _EndlessError(Exception):
    """A template makes more, or takes longer, than any conversation needs."""


def _bounded(pieces: Iterable[str]) -> str:
    """The text of all pieces. Raises ``_EndlessError``, and ``UnicodeEncodeError`` where it is none.

    Loops that write nothing are bounded by the sandbox alone.
    """
    until_s, num_characters, kept = time.monotonic() + _MAX_RENDER_S, 0, []
    for piece in pieces:
        kept.append(piece)
        num_characters += len(piece)
        if num_characters > _MAX_RENDERED_LEN:
            raise _EndlessError(f"more than {_MAX_RENDERED_LEN} characters")
        if time.monotonic() > until_s:
            raise _EndlessError(f"no text within {_MAX_RENDER_S:g} s")
    text = "".join(kept)
    text.encode()  # a template's own texts may hold half a character, which has no tokens
    return text


def _question(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


def _call(arguments: object, content: str | None) -> list[dict[str, object]]:
    call = {"id": "call00000", "type": "function", "function": {"name": "say", "arguments": arguments}}
    return [*_question("Hello"), {"role": "assistant", "content": content, "tool_calls": [call]}]


def _before_end(text: str) -> str:
    """The text up to the mark of the final message's end; trimmed where the template trims messages."""
    mark = _END_OF_FINAL_MESSAGE.strip()
    written, *more = text.split(mark)
    if not more:
        raise ValueError("the chat template leaves out the final message, so it can't be continued")
    found = ""
    for (
        after
    ) in more:  # more than one where the template writes the content several times; it may trim it in one place only
        found += written if after.startswith(" ") else written.rstrip()
        written = after.removeprefix(" ")
    return found


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks the text that an assistant wrote, for training. What it encloses is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Has a scope of its own, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


def _compile(source: str) -> jinja2.Template:
    """With the settings and globals of transformers' ``render_jinja_template``."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment.from_string(source)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _told(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
