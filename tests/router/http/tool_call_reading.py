"""Reads an output's calls of tools in pieces, as the servicer does, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from router.http.tool_calls import CallHead, CallPiece, ToolCallFormat, whole_calls
from router.http.tool_calls.json_calls import parsed

TOOLS: list[Mapping[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {"type": "integer"},
                    "s": {"type": "string"},
                    "b": {"type": "boolean"},
                    "l": {"type": ["array", "null"]},
                    "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
            },
        },
    },
    {"name": "g"},
    {"type": "function", "function": "no object"},
]


def read(
    name: str, text: str, cuts: list[int] | None = None, *, may_be_many: bool = True
) -> tuple[str, list[tuple[str, object]]]:
    (reader,) = ToolCallFormat(name).readers(TOOLS, 1, may_be_many=may_be_many)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts or []), len(text)]
    pieces: list[CallPiece] = []
    texts = ""
    for start, end in itertools.pairwise(edges):
        certain, found = reader.add(text[start:end])
        texts += certain
        pieces += found
    certain, found = reader.add("", is_end=True)
    pieces += found
    heads = [piece for piece in pieces if isinstance(piece, CallHead)]
    assert [head.number for head in heads] == list(range(reader.num_calls))
    assert all(len(head.id) == 9 and head.id.isalnum() for head in heads)
    # A call's pieces come behind its head, and before the next call.
    assert [piece.number for piece in pieces] == sorted(piece.number for piece in pieces)
    return texts + certain, [(call.name, value_of(call.arguments)) for call in whole_calls(pieces)]


def value_of(arguments: str) -> object:
    """What the model broke off is a text."""
    try:
        return parsed(arguments)
    except ValueError:
        return arguments
