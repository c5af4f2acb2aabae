"""Calls that the model is made to write, as a grammar: always in Hermes's form, which any model writes where nothing else is allowed.

Used by ``router.http.structures``. ``formats`` has the form's reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from router.http.closed_schemas import closed
from specgrove.structures.structured_output import JSON_BLANKS
from specgrove.structures.understood_schemas import understood

_TAIL = r'"}\n</tool_call>"'


def calls_grammar(
    functions: Sequence[Mapping[str, Any]], *, may_be_many: bool, content: Mapping[str, Any] | None = None
) -> str:
    """In Lark's syntax: one call or several, each of one of ``functions`` with arguments that its parameters allow.

    With ``content``, a JSON schema, the output may be such JSON instead.
    """
    names = [f"call_{number}" for number in range(len(functions))]
    rules = [
        f"start: {'calls' if content is None else 'calls | content'}",
        'calls: call ("\\n" call)*' if may_be_many else "calls: call",
        f"call: {' | '.join(names)}",
    ]
    for name, function in zip(names, functions, strict=True):
        head = f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": '
        # A function without parameters has none. What is null counts as left out.
        given = {key: value for key, value in (function.get("parameters") or {}).items() if value is not None}
        arguments = _json(closed({"type": "object", "properties": {}, **given}))
        rules += [f"{name}: {_literal(head)} {name}_arguments {_TAIL}", f"{name}_arguments: {arguments}"]
    if content is not None:
        rules.append(f"content: {_json(content)}")
    return "\n".join((*rules, ""))


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Mapping[str, Any]) -> str:
    """A schema of its own, so that references in it keep their root."""
    given = json.dumps({"x-guidance": {"whitespace_pattern": JSON_BLANKS}, **schema}, ensure_ascii=False)
    return f"%json {understood(given)}"
