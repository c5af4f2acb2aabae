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


FIRST = (
    "{% if messages[0].role == 'system' %}<s>{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
FIRST_ONLY = FIRST.replace(
    "{% endif %}{% endfor", "{% elif not loop.first %}{{ raise_exception('System first.') }}{% endif %}{% endfor"
)


@pytest.mark.parametrize("template", [FIRST, FIRST_ONLY])
def test_instructions_that_lead_are_one_message_where_the_template_takes_one(template: str) -> None:
    """Agents send their own and the user's."""
    leading = (("system", "Be short."), ("developer", "Be kind."), ("system", "Be."))
    assert rendered(template, *leading, ("user", "hi")) == "<s>Be short.\n\nBe kind.\n\nBe.<user>hi"
    assert rendered(BRANCHES, *leading, ("user", "hi")) == "<system>Be short.<system>Be kind.<system>Be.<user>hi"


def test_instructions_that_would_be_left_out_later_are_refused() -> None:
    conversation = (("system", "Be short."), ("user", "hi"), ("system", "Be kind."), ("user", "so"))
    with pytest.raises(ValueError, match="leaves out messages of the role 'system' that are not the first"):
        rendered(FIRST, *conversation)
    with pytest.raises(ValueError, match="rejects these messages: System first"):
        rendered(FIRST_ONLY, *conversation)
    assert rendered(BRANCHES, *conversation) == "<system>Be short.<user>hi<system>Be kind.<user>so"


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


LAST = (
    "{% set n = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set n.s = m.content %}{% endif %}{% endfor %}"
    + (
        "<s>{{ n.s }}{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
)


def test_the_first_instructions_are_not_lost_for_later_ones() -> None:
    """DeepSeek-R1's template takes the last system message alone."""
    for second in ("system", "developer"):
        assert rendered(LAST, ("system", "A"), (second, "B"), ("user", "hi")) == "<s>A\n\nB<user>hi"
        with pytest.raises(ValueError, match="or the first for them"):
            rendered(LAST, ("system", "A"), ("user", "hi"), ("assistant", "yes"), (second, "B"))
        assert rendered(LAST, ("user", "hi"), (second, "B")) == "<s>B<user>hi"


def test_instructions_of_two_roles_that_lead_are_one_message() -> None:
    """gpt-oss' template knows both roles, and takes one message."""
    template = FIRST.replace("== 'system'", "in ('system', 'developer')")
    assert rendered(template, ("system", "A"), ("developer", "B"), ("user", "hi")) == "<s>A\n\nB<user>hi"
    assert rendered(template, ("developer", "A"), ("system", "B"), ("user", "hi")) == "<s>A\n\nB<user>hi"


def test_a_conversation_of_very_many_roles_is_refused() -> None:
    with pytest.raises(ValueError, match="has 9 roles besides user, assistant, system; at most 8"):
        rendered(STRICT, *[(f"role{i}", "x") for i in range(9)], ("user", "hi"))
