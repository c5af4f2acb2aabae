"""Which form a model's calls of tools have, by its template; and the special tokens that mark them."""

from __future__ import annotations

import json

import pytest
import tokenizers

from router.http.asking import asked_chat
from router.http.bodies import ChatBody
from router.http.tool_calls import format_of
from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.router.http.tool_call_reading import read

# The lines of the families' own templates that write the calls of an answer, or ask for them.
TEMPLATES = {
    "hermes": """{%- for tool_call in message.tool_calls %}
        {%- if tool_call.function is defined %}
            {%- set tool_call = tool_call.function %}
        {%- endif %}
        {{- '\\n<tool_call>\\n{"name": "' }}
        {{- tool_call.name }}
        {{- '", "arguments": ' }}
        {{- tool_call.arguments | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}""",
    "qwen2_coder": """{%- for tool_call in message.tool_calls %}
        {%- set tool_call = tool_call.function %}
        {{- '<tools>\\n{"name": ' ~ (tool_call.name | tojson) }}
        {{- ', "arguments": ' }}{{- tool_call.arguments | tojson }}
        {{- "}\\n" }}
        {{- "</tools>\\n" }}
    {%- endfor %}""",
    "qwen3_coder": """{%- for tool_call in message.tool_calls %}
        {%- set tool_call = tool_call.function %}
        {{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}
        {%- for args_name, args_value in tool_call.arguments|items %}
            {{- '<parameter=' + args_name + '>\\n' }}
            {%- set args_value = args_value | tojson | safe if args_value is mapping else args_value | string %}
            {{- args_value }}
            {{- '\\n</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>\\n</tool_call>' }}
    {%- endfor %}""",
    "llama3_json": """{{- "Environment: ipython\\n" if false }}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}""",
    "mistral": """{{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {{- ', "id": "' + tool_call.id[-9:] + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" }}
            {%- endif %}
        {%- endfor %}""",
}


def tokenizer_with(template: str, *special_tokens: str) -> Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    made.add_special_tokens(list(special_tokens))
    return Tokenizer(made.to_str().encode(), {}, template)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_writes_tells_its_format_and_is_read_back(name: str) -> None:
    tokenizer = tokenizer_with("{% for message in messages %}" + TEMPLATES[name] + "{% endfor %}")
    assert format_of("auto", tokenizer, "model").name == name
    assert format_of("none", tokenizer, "model").name == "none"
    arguments = {"x": 5, "s": 'a "b"\n} c', "b": True}
    calls = [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}] * 2
    count = 1 if name == "llama3_json" else 2
    message = {"role": "assistant", "content": "", "tool_calls": calls[:count]}
    text = tokenizer.render_chat([message], ChatOptions(add_generation_prompt=False))
    assert read(name, text) == ("", [("f", arguments)] * count)


def test_models_without_a_template_for_tools_and_those_that_dont_keep_theirs() -> None:
    assert format_of("auto", tokenizer_with("{{ messages }}"), "model").name == "hermes"
    assert format_of("auto", tokenizer_with(TEMPLATES["hermes"]), "Qwen2.5-Coder-7B-Instruct").name == "qwen2_coder"


@pytest.mark.parametrize(
    ("name", "special", "keeps"),
    [
        ("mistral", "[TOOL_CALLS]", True),
        ("mistral", "<eos>", False),
        ("llama3_json", "<|python_tag|>", True),
        ("hermes", "<tool_call>", False),
    ],
)
def test_special_tokens_that_mark_calls_are_kept(name: str, special: str, keeps: bool) -> None:
    assert format_of(name, tokenizer_with("", special), "model").keeps_special_tokens is keeps


def test_special_tokens_are_kept_whatever_the_client_says() -> None:
    body = ChatBody(messages=[{"role": "user", "content": "x"}], skip_special_tokens=True)
    assert asked_chat(body, keeps_special_tokens=True).requests[0].keep_special_tokens
    assert not asked_chat(body).requests[0].keep_special_tokens
