"""Messages of roles that a template doesn't know reach the text all the same, or are refused: none is lost in silence."""

from __future__ import annotations

import pytest

from specgrove.tokenizer import ChatOptions
from tests.tokenizer.test_chat_template import with_template

# As Qwen2's: what it has no branch for it leaves out.
BRANCHES = (
    "{% for m in messages %}{% if m.role in ('user', 'system') or (m.role == 'assistant' and not m.tool_calls) %}"
    "<{{ m.role }}>{{ m.content }}{% elif m.role == 'assistant' %}<call>{% endif %}{% endfor %}"
)
WITH_TOOLS = BRANCHES.replace("<call>{%", "<call>{% elif m.role == 'tool' %}<tool>{{ m.content }}{%")
STRICT = BRANCHES.replace(
    "{% endif %}{% endfor", "{% else %}{{ raise_exception('Unexpected role.') }}{% endif %}{% endfor"
)
ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
OPTIONS = ChatOptions(add_generation_prompt=False)
CALL = {"role": "assistant", "tool_calls": [{"id": "0", "function": {"name": "f", "arguments": "{}"}}]}


def rendered(template: str, *messages: object) -> str:
    return with_template(template).render_chat(list(messages), OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", [BRANCHES, WITH_TOOLS, STRICT])
def test_a_developer_is_the_system_where_the_template_knows_no_other(template: str) -> None:
    assert rendered(template, ("developer", "Be short."), ("user", "hi")) == "<system>Be short.<user>hi"
    assert rendered(template, ("user", "hi"), ("developer", "Be short.")) == "<user>hi<system>Be short."


def test_a_developer_stays_where_the_template_knows_it() -> None:
    assert rendered(ANY, ("developer", "Be short."), ("user", "hi")) == "<developer>Be short.<user>hi"
    knows = ANY.replace(
        "<{{ m.role }}>",
        "{% if m.role == 'developer' %}!{% elif m.role != 'user' %}{{ raise_exception('no') }}{% endif %}",
    )
    assert rendered(knows, ("developer", "Be short."), ("user", "hi")) == "!Be short.hi"


@pytest.mark.parametrize("role", ["User", "function", "ipython"])
def test_a_role_that_would_be_left_out_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match=f"the chat template leaves out messages of the role '{role}'"):
        rendered(WITH_TOOLS, ("user", "hi"), (role, "x"))
    assert rendered(ANY, ("user", "hi"), (role, "x")) == f"<user>hi<{role}>x"


def test_answers_of_tools_are_refused_where_they_would_be_left_out() -> None:
    assert rendered(WITH_TOOLS, ("user", "hi"), CALL, ("tool", "5")) == "<user>hi<call><tool>5"
    with pytest.raises(ValueError, match="leaves out messages of the role 'tool'"):
        rendered(BRANCHES, ("user", "hi"), CALL, ("tool", "5"))


def test_what_a_template_says_of_a_role_is_told_as_it_says_it() -> None:
    with pytest.raises(ValueError, match="rejects these messages: Unexpected role"):
        rendered(STRICT, ("user", "hi"), ("function", "5"))


def test_contents_in_parts_are_looked_for_too() -> None:
    parts = ANY.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
    assert rendered(parts, ("developer", "a"), ("user", "b")) == "<developer>a<user>b"
