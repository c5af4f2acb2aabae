"""Calls of tools in an output's text, in each family's form and however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.tool_calls import ToolCallFormat, whole_calls
from router.http.tool_calls.json_scan import JsonScan
from specgrove.config import TOOL_CALL_FORMATS
from tests.router.http.tool_call_reading import TOOLS, read

OBJECT = '{"name": "f", "arguments": {"x": 1}}'
HERMES = f"<tool_call>\n{OBJECT}\n</tool_call>"
LLAMA = '{"name": "f", "parameters": {"x": 1}}'
XML = "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"
BLOCK = f"```json\n{OBJECT}\n```"
ONE, TWO = [("f", {"x": 1})], [("f", {"x": 1})] * 2

# Words of which every form's calls, halves and near misses can be put together.
WORDS = [
    "Hi", " ", "\n", "<", "[", "{", ";", "```", "```json", "<tool_call>", "</tool_call>", "<tools>", "</tools>", "<function=f>",
    "</function>", "<parameter=x>", "</parameter>", "1", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "f", OBJECT,
    LLAMA, HERMES, XML, BLOCK, '{"name": "f"}', '{"type": "', '{"x": 1}', f"[{OBJECT}]", "<tool_call>no</tool_call>", '"', "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", TOOL_CALL_FORMATS[1:])
@given(st.lists(st.sampled_from(WORDS)).map("".join), st.lists(st.integers(0, 500)))
def test_pieces_give_what_the_whole_gives(name: str, text: str, cuts: list[int]) -> None:
    assert read(name, text, cuts) == read(name, text)


@pytest.mark.parametrize(
    ("name", "text", "rest", "calls"),
    [
        ("hermes", HERMES, "", ONE),
        ("hermes", f"Well.\n{HERMES}\n{HERMES}\nDone.", "Well.\n\nDone.", TWO),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", ONE),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [("f", {})]),
        ("hermes", f"<tool_call>[{OBJECT}, {OBJECT}]</tool_call>", "", TWO),
        ("hermes", f"<tool_call>{OBJECT}", "", ONE),
        ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', "", [("other", {})]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "\\ud800"}}</tool_call>', "", [("f", {"s": "\ud800"})]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "</tool_call>"}}</tool_call>', "", [("f", {"s": "</tool_call>"})]),
        ("qwen2_coder", HERMES, "", ONE),
        ("qwen2_coder", f"Sure:\n\n{BLOCK}\n", "Sure:\n\n", ONE),
        ("qwen2_coder", f"```json\n[{OBJECT},\n{OBJECT}]\n```", "", TWO),
        ("qwen2_coder", f"```json\n{OBJECT}\n", "", ONE),
        ("qwen2_coder", f"<tools>\n{OBJECT}\n</tools>\n<tools>\n{OBJECT}\n</tools>", "", TWO),
        ("qwen2_coder", '```json\n{"name": "f", "arguments": {"s": "a ``` } b"}}\n```', "", [("f", {"s": "a ``` } b"})]),
        ("qwen3_coder", XML, "", ONE),
        ("qwen3_coder", f"I look.\n{XML}\n{XML}", "I look.\n", TWO),
        ("qwen3_coder", XML.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"), "", ONE),
        ("qwen3_coder", "<tool_call>\n<function=g>\n</function>\n</tool_call>", "", [("g", {})]),
        ("llama3_json", LLAMA, "", ONE),
        ("llama3_json", f"<|python_tag|>{LLAMA}", "", ONE),
        ("llama3_json", f"{LLAMA}; {LLAMA}", "", TWO),
        ("llama3_json", f"{LLAMA}\n{LLAMA}\n", "", TWO),
        ("llama3_json", '{"type": "function", "name": "f", "parameters": {"x": 1}}', "", ONE),
        ("llama3_json", f"I look.<|python_tag|>{LLAMA}", "I look.", ONE),
        ("llama3_json", '<function=f>{"x": 1}</function>', "", ONE),
        ("mistral", f"[TOOL_CALLS] [{OBJECT}, {OBJECT}]", "", TWO),
        ("mistral", '[TOOL_CALLS]f{"x": 1}', "", ONE),
        ("mistral", 'I look.[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"x": 1}', "I look.", TWO),
    ],
)  # fmt: skip
def test_calls_are_found(name: str, text: str, rest: str, calls: list[tuple[str, object]]) -> None:
    assert read(name, text) == (rest, calls)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[(name, text) for name in TOOL_CALL_FORMATS[1:] for text in ("a < b\n", "[1] {2}", "Cut: <tool_call>{", "```json")],
        ("hermes", "<tool_call>nonsense</tool_call>"),
        ("hermes", f'<tool_call>{{"na</tool_call> Then {HERMES.replace(chr(34), "")}'),
        ("hermes", '<tool_call>{"name": 5}</tool_call>'),
        ("hermes", "<tool_call>[]</tool_call>"),
        ("hermes", '<tool_call>{"name": "other", "arguments": {"x": NaN}}</tool_call>'),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {'x': 1}}</tool_call>"),
        ("hermes", '<tool_call>{"name": "\\ud800"}</tool_call>'),
        ("hermes", 'Cut: <tool_call>{"na'),
        ("hermes", LLAMA),
        # A program about tools, and other JSON, are answers.
        ("qwen2_coder", '```json\n{"name": "unknown", "arguments": {}}\n```'),
        ("qwen2_coder", '```json\n{"name": "f"}\n```'),
        ("qwen2_coder", f"```json\n{OBJECT}\n{OBJECT}\n```"),
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=x>\n1\n</function>\n</tool_call>"),
        ("llama3_json", '{"name": "Ann", "parameters": {"age": 5}}'),
        ("llama3_json", '{"name": "f"}'),
        ("llama3_json", f"The call would be {LLAMA}"),
        ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
        ("llama3_json", "<function=f>x = 1</function>"),
        ("llama3_json", '<function=f>"x"</function>'),
        ("mistral", "[TOOL_CALLS] I don't know how."),
        ("mistral", f"[{OBJECT}]"),
        ("none", f"{HERMES} {BLOCK} [TOOL_CALLS][{OBJECT}]"),
    ],
)  # fmt: skip
def test_all_else_is_text(name: str, text: str) -> None:
    assert read(name, text) == (text, [])


def test_json_that_grows_is_not_looked_at_again() -> None:
    scan = JsonScan()
    assert scan.end('{"a": [1, "b', 0) is None
    assert scan.end('.........."b]"]} {', 0) == 16  # what was read may be anything
    scan.forget()
    assert scan.end('{"b": "}"}', 0) == 10
    scan.forget()
    # Nor a string: it may be a file that is to be written.
    assert scan.end('{"a": "}}\\', 0) is None
    assert scan.end('.........\\"}"}', 0) == 14


def test_values_in_tags_have_the_types_of_the_tools_schema() -> None:
    values = {"x": "5", "s": "5", "b": "True", "l": "[1, 2]", "u": "null"}
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    assert read("qwen3_coder", f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>")[1] == [
        ("f", {"x": 5, "s": "5", "b": True, "l": [1, 2], "u": None})
    ]
    others = "<parameter=s>two\nlines <b></parameter><parameter=x>five</parameter><parameter=y>7</parameter>"
    assert read("qwen3_coder", f"<function=f>{others}</function>")[1] == [
        ("f", {"s": "two\nlines <b>", "x": "five", "y": "7"})
    ]


@given(st.lists(st.integers(0, 500)))
def test_where_there_is_to_be_one_call_the_output_ends_with_it(cuts: list[int]) -> None:
    for text in (f"Well.\n{HERMES}\nMore.\n{HERMES}", f"Well.\n<tool_call>[{OBJECT}, {OBJECT}]</tool_call>"):
        assert read("hermes", text, cuts, may_be_many=False) == ("Well.\n", ONE)


@pytest.mark.parametrize(
    ("name", "text", "num_certain"),
    [
        ("llama3_json", '{"answer": 4', 12),
        ("llama3_json", "Four", 4),
        ("qwen2_coder", '```json\n{"port": 80', 19),
        ("qwen2_coder", "```python\nprint", 15),
        ("mistral", "[TOOL_", 0),
        ("hermes", "x <tool", 2),
        ("hermes", "\n<tool", 0),
    ],
)
def test_an_answer_is_held_back_only_while_it_may_be_a_call(name: str, text: str, num_certain: int) -> None:
    (reader,) = ToolCallFormat(name).readers(TOOLS, 1, may_be_many=True)
    assert reader.add(text)[0] == text[:num_certain]


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "a', '{"s": "a'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "a"}', '{"s": "a"}'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "a"</tool', '{"s": "a"'),
        ("hermes", '<tool_call>[{"name": "f", "arguments": {"s": "</tool_call>', '{"s": "</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {', None),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{', None),
        ("hermes", '<tool_call>{"name": "other", "arguments": {"s": "a', None),
        ("qwen3_coder", "<function=f><parameter=x>1</parameter><parameter=s>a", '{"x": 1'),
        ("qwen3_coder", "<tool_call><function=f><parameter=x>1", None),
        ("llama3_json", '{"name": "f", "parameters": {"s": "a', '{"s": "a'),
        ("llama3_json", '<|python_tag|>{"type": "function", "name": "f", "parameters": {"s": "a', '{"s": "a'),
        ("llama3_json", '<function=f>{"s": "a', '{"s": "a'),
        ("llama3_json", '{"name": "Ann", "parameters": {"s": "a', None),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"s": "a', '{"s": "a'),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"s": "a', '{"s": "a'),
        ("qwen2_coder", '```json\n{"name": "f", "arguments": {"s": "a', None),
    ],
)  # fmt: skip
def test_arguments_are_told_as_they_come(name: str, text: str, arguments: str | None) -> None:
    (reader,) = ToolCallFormat(name).readers(TOOLS, 1, may_be_many=True)
    certain, pieces = reader.add(text)
    assert certain == ""
    assert [(call.name, call.arguments) for call in whole_calls(pieces)] == ([("f", arguments)] if arguments else [])


def test_what_has_begun_as_a_call_stays_one_and_what_follows_is_read_on() -> None:
    broken = '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'
    assert read("hermes", f"{broken}{HERMES}Done.") == ("Done.", [("f", '{"x": NaN}'), *ONE])
    without_its_end = '<tool_call>{"name": "f", "arguments": {"x": 1}</tool_call>'
    assert read("hermes", f"{without_its_end}\n{HERMES}") == ("", TWO)
    assert read("hermes", f"<tool_call>{OBJECT}\n{OBJECT}</tool_call>") == ("", TWO)
    again = "<parameter=x>1</parameter><parameter=x>2</parameter>"
    assert read("qwen3_coder", f"<function=f>{again}</function>") == ("", ONE)
