"""A chat template that is broken, or fails at a conversation, says why, and forbids conversations only."""

from __future__ import annotations

import pytest

from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.tokenizer.shapes import byte_level_backend

CONTENT = byte_level_backend().to_str().encode()


def with_template(template: str | dict[str, str] | None) -> Tokenizer:
    return Tokenizer(CONTENT, {}, template)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ messages[0]['content'] + 1 }}", "fails at these messages: TypeError: can only concatenate str"),
        ("{{ messages[0].nothing.content }}", "rejects these messages: 'dict object' has no attribute 'nothing'"),
        ("{{ messages[9].content.strip() }}", "rejects these messages: list object has no element 9"),
        ("{{ 1 / 0 }}", "fails at these messages: ZeroDivisionError: division by zero"),
        ("{{ messages | tojson(indent=messages) }}", "fails at these messages: TypeError"),
        ("{{ messages.append(1) }}", "rejects these messages: access to attribute 'append'"),
        ("{{ ''.__class__.__mro__[1] }}", "rejects these messages: access to attribute '__class__'"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "fails at these messages: RecursionError"),
        ("{{ raise_exception('roles must alternate') }}", "rejects these messages: roles must alternate"),
        ("{{ strftime_now(1) }}", "fails at these messages: TypeError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "fails at these messages: OverflowError"),
        ("{{ messages[0].content.encode('ascii') }}", "fails at these messages: UnicodeEncodeError"),
        ("{{ messages[0].content }}\ud83d", "fails at these messages: UnicodeEncodeError"),
    ],
)
def test_a_template_that_fails_says_why(template: str, told: str) -> None:
    tokenizer = with_template(template)
    assert tokenizer.has_chat_template
    with pytest.raises(ValueError, match="the chat template") as info:
        tokenizer.encode_chat([("user", "木")])
    assert told in str(info.value)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{{ m.content }}", "can't be used: line 1: Unexpected end of template"),
        ("\n{% nonsense %}", "can't be used: line 2: Encountered unknown tag 'nonsense'"),
        ("{{ messages | nonsense }}", "can't be used: line 1: No filter named 'nonsense'"),
        ({"rag": "x", "tool_use": "y"}, "no chat template of the name 'default', only rag, tool_use"),
    ],
)
def test_a_template_that_cannot_be_used_forbids_conversations_only(template: str, told: str) -> None:
    tokenizer = with_template(template)
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert not tokenizer.has_chat_template
    assert tokenizer.chat_template_defect is not None
    assert told in tokenizer.chat_template_defect
    with pytest.raises(ValueError, match=r"send the prompt as raw text|can.t be used") as info:
        tokenizer.encode_chat([("user", "hi")])
    assert told in str(info.value)


def test_a_model_without_a_template_has_no_defect() -> None:
    assert with_template(None).chat_template_defect is None


def test_generation_tags_are_transparent() -> None:
    tokenizer = with_template("{% for m in messages %}a{% generation %}{{ m.content }}{% endgeneration %}b{% endfor %}")
    assert tokenizer.render_chat([("user", "x"), ("assistant", "<y>")]) == "axba<y>b"


def test_a_broken_template_for_tools_is_told_where_there_are_tools() -> None:
    tokenizer = with_template({"default": "{{ messages[0].content }}", "tool_use": "{% broken"})
    assert tokenizer.render_chat([("user", "hi")]) == "hi"
    with pytest.raises(ValueError, match="can't be used"):
        tokenizer.render_chat([("user", "hi")], ChatOptions(template_kwargs={"tools": []}))


ONLY_PARTS = {
    "looks for parts of text": "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}",
    "takes the first part": "{% for m in messages %}<{{ m.role }}>{{ m['content'][0]['text'] }}{% endfor %}",
    "fails at texts": "{% for m in messages %}<{{ m.role }}>{{ m.content[0].text.strip() }}{% endfor %}",
}


@pytest.mark.parametrize("template", ONLY_PARTS.values(), ids=ONLY_PARTS)
def test_a_template_that_takes_contents_in_parts_gets_parts(template: str) -> None:
    tokenizer = with_template(template)
    conversation = [("user", "hi {"), ("assistant", "木")]
    assert tokenizer.render_chat(conversation) == "<user>hi {<assistant>木"
    assert (
        tokenizer.render_chat(conversation, ChatOptions(False, continue_final_message=True))
        == "<user>hi {<assistant>木"
    )


def test_a_template_that_takes_texts_gets_texts() -> None:
    both = (
        "{% for m in messages %}{% if m.content is string %}text {{ m.content }}{% else %}parts{% endif %}{% endfor %}"
    )
    assert with_template(both).render_chat([("user", "hi")]) == "text hi"
    # Whatever is asked of them, these show no user's content.
    assert with_template("{{ messages[0].content is string }}").render_chat([("user", "hi")]) == "True"


CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [m.function_call] %}{% set f = c.function or c %}"
    "{{ f.arguments | tojson }}{% if f.arguments is mapping %}{% for k, v in f.arguments | items %} {{ k }}={{ v }}{% endfor %}"
    "{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Köln", "days": 3}', '{"city": "Köln", "days": 3} city=Köln days=3'),
        ({"city": "Köln", "days": 3}, '{"city": "Köln", "days": 3} city=Köln days=3'),
        ("", "{}"),
        ("{}", "{}"),
        ('{"id": 12345678901234567890}', '{"id": 12345678901234567890} id=12345678901234567890'),
        # No objects: as they are.
        ("Köln, please", '"Köln, please"'),
        ("[1]", '"[1]"'),
        ("[" * 100_000, f'"{"[" * 100_000}"'),
    ],
)
def test_arguments_of_calls_are_objects_though_clients_send_them_as_text(arguments: object, expected: str) -> None:
    tokenizer = with_template(CALLS)
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "1", "type": "function", "function": function}]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    assert tokenizer.render_chat([message]) == expected
    assert tokenizer.render_chat([{**message, "tool_calls": [function]}]) == expected
    assert tokenizer.render_chat([{"role": "assistant", "content": "", "function_call": function}]) == expected
    # The caller's own stays as it is.
    assert calls[0]["function"] == {"name": "f", "arguments": arguments}


PUT_INTO_THE_TEXT = {
    "fails at objects": "{% for c in m.tool_calls %}{{ '<' + c.function.arguments + '>' }}{% endfor %}",
    "writes objects as Python does": "{% for c in m.tool_calls %}<{{ c.function.arguments }}>{% endfor %}",
}


@pytest.mark.parametrize("calls", PUT_INTO_THE_TEXT.values(), ids=PUT_INTO_THE_TEXT)
@pytest.mark.parametrize("arguments", ['{"city": "Köln", "days": 3}', {"city": "Köln", "days": 3}])
def test_a_template_that_puts_arguments_into_the_text_gets_text(calls: str, arguments: object) -> None:
    tokenizer = with_template(f"{{% for m in messages %}}{{{{ m.content }}}}{calls}{{% endfor %}}")
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    assert tokenizer.render_chat([("user", "hi"), message]) == 'hi<{"city": "Köln", "days": 3}>'


def test_a_template_that_takes_arguments_in_both_forms_gets_objects() -> None:
    both = (
        "{% for m in messages %}{% for c in m.tool_calls %}{% set a = c.function.arguments %}"
        "{{ a if a is string else 'object ' + (a | tojson) }}{% endfor %}{% endfor %}"
    )
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]}
    assert with_template(both).render_chat([message]) == 'object {"a": 1}'


def test_a_template_that_shows_calls_only_without_a_content_gets_none() -> None:
    """As DeepSeek's: beside an empty content it left the calls out without a word."""
    template = (
        "{% for m in messages %}{% if m.content is not none %}{{ m.content }};{% else %}"
        "{% for c in m.tool_calls %}{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}{% endif %}{% endfor %}"
    )
    tokenizer = with_template(template)
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    for content in ({}, {"content": ""}, {"content": None}):
        assert tokenizer.render_chat([("user", ""), message | content]) == ';f({"a": 1})'
    assert tokenizer.render_chat([message | {"content": "Let me see"}]) == "Let me see;"
    assert tokenizer.render_chat([("assistant", "")]) == ";"


@pytest.mark.parametrize("calls", [[], (), None])
def test_an_empty_list_of_calls_is_none(calls: object) -> None:
    """Some templates ask whether there is one, and leave the content out then, or want a call in it."""
    tokenizer = with_template(
        "{% for m in messages %}{% if m.tool_calls is defined %}<{{ m.tool_calls[0].function.name }}>"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    message = {"role": "assistant", "content": "Done.", "tool_calls": calls}
    assert tokenizer.render_chat([message]) == "Done."


@pytest.mark.parametrize("message", [{"role": "assistant", "tool_calls": []}, {"role": "assistant", "content": None}])
def test_a_message_without_text_is_not_continued(message: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no text that could be continued"):
        with_template("{{ messages }}").render_chat([message], ChatOptions(continue_final_message=True))


@pytest.mark.parametrize(("filter_", "content"), [("", " so "), ("| trim", "so")])
def test_a_message_that_is_written_twice_is_continued_where_it_comes_last(filter_: str, content: str) -> None:
    template = f"{{{{ messages[-1].content {filter_} }}}}:{{% for m in messages %}}[{{{{ m.content {filter_} }}}}]{{% endfor %}}"
    conversation = [("user", "hi"), ("assistant", " so ")]
    text = with_template(template).render_chat(conversation, ChatOptions(continue_final_message=True))
    assert text == f"{content}:[hi][{content}"


def test_a_message_may_be_trimmed_in_one_of_two_places() -> None:
    conversation = [("user", "hi"), ("assistant", " so ")]
    for first, last, expected in ((" | trim", "", "so: so "), ("", " | trim", " so :so")):
        template = f"{{{{ messages[-1].content {first} }}}}:{{{{ messages[-1].content {last} }}}}|"
        assert with_template(template).render_chat(conversation, ChatOptions(continue_final_message=True)) == expected


def test_a_template_that_writes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgrove.tokenizer.chat_template._MAX_RENDERED_LEN", 1000)
    endless = "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(ValueError, match="the chat template makes more than 1000 characters of these messages"):
        with_template(endless).encode_chat([("user", "hi")])
    monkeypatch.setattr("specgrove.tokenizer.chat_template._MAX_RENDER_S", -1.0)
    with pytest.raises(ValueError, match="the chat template makes no text within -1 s of these messages"):
        with_template("{{ messages[0].content }}").encode_chat([("user", "hi")])
