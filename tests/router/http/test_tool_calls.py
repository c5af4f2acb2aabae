"""Calls of tools in an output's text, however it is cut into pieces."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.tool_calls import ToolCallReader

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
PARTS = st.sampled_from(
    ["Hi", " ", "\n", "<", "<tool_call>", "</tool_call>", "<tool", CALL, '{"name": "f"}', "<tool_call>no</tool_call>"]
)


def read(text: str, cuts: list[int] | None = None) -> tuple[str, list[tuple[int, str, object]]]:
    reader = ToolCallReader()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts or []), len(text)]
    texts, calls = "", []
    for start, end in itertools.pairwise(edges):
        certain, found = reader.add(text[start:end])
        texts += certain
        calls += found
    certain, found = reader.add("", is_end=True)
    return texts + certain, [(call.number, call.name, json.loads(call.arguments)) for call in (*calls, *found)]


@given(st.lists(PARTS).map("".join), st.lists(st.integers(0, 500)))
def test_pieces_give_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    assert read(text, cuts) == read(text)


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (CALL, "", [(0, "f", {"x": 1})]),
        (f"Well.\n{CALL}\n{CALL}\nDone.", "Well.Done.", [(0, "f", {"x": 1}), (1, "f", {"x": 1})]),
        ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [(0, "f", {"x": 1})]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [(0, "f", {})]),
        ("a < b\n", "a < b\n", []),
        ("<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ("<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", []),
        ('Cut: <tool_call>{"na', 'Cut: <tool_call>{"na', []),
    ],
)
def test_calls_are_found_and_all_else_is_text(text: str, rest: str, calls: list[object]) -> None:
    assert read(text) == (rest, calls)
