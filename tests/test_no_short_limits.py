"""Limits in tests only end tests that hang: a short one fails on a slow machine, and says nothing."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
WAITS = {"timeout", "wait_for", "result", "exception", "join", "wait", "communicate", "acquire", "settimeout", "run"}


def short_limits(file: Path) -> list[str]:
    """Where a wait has a number of seconds of its own below a minute; 0 doesn't wait."""
    found = []
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr not in WAITS:
            continue
        if isinstance(call.func.value, ast.Name) and call.func.value.id == "self":
            continue
        given = [*call.args[-1:], *(keyword.value for keyword in call.keywords if keyword.arg == "timeout")]
        numbers = [node.value for node in given if isinstance(node, ast.Constant) and type(node.value) in (int, float)]
        found += [f"{file.relative_to(TESTS)}:{call.lineno}" for number in numbers if 0 < number < 60]
    return found


def test_waits_have_the_one_long_limit() -> None:
    assert [place for file in sorted(TESTS.rglob("*.py")) for place in short_limits(file)] == []
