"""Patterns that begin with conditions (lookaheads), as several patterns without any. Used by ``understood_schemas``.

Rules for passwords are written so, ``^(?=.*[A-Z])(?=.*[0-9]).{8,}$``, and pydantic's decimal numbers,
``^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$``.
Invariant: the same texts fit all of the patterns as fit the one.
"""

from __future__ import annotations

import re

# Not only characters of a class, from the beginning to the end.
_NOT_ONLY = re.compile(r"\^?\[(?P<class>(?!\^)(?:[^\]\\]|\\.)+)\]\*\$")


def without_conditions(pattern: str) -> list[str]:
    """What follows the conditions, and a pattern for each of them; the pattern alone where there are none, or one can't be said so."""
    rest, conditions = pattern.removeprefix("^"), []
    if len(rest) == len(pattern):
        return [pattern]
    while rest.startswith(("(?=", "(?!")):
        end = _group_end(rest)
        said = _said(rest[:3], rest[3 : end - 1]) if end else None
        if said is None:
            return [pattern]
        conditions.append(said)
        rest = rest[end:]
    # Beside alternatives the conditions would be those of the first one alone, and a repetition that of the last condition.
    may_divide = conditions and "|" not in rest and not rest.startswith(("?", "*", "+", "{"))
    return [f"^{rest}", *conditions] if may_divide else [pattern]


def _said(kind: str, condition: str) -> str | None:
    if kind == "(?=":
        inner = condition.removeprefix("^")
        # Of alternatives the end belongs to the last one alone.
        is_whole = inner.endswith("$") and not inner.endswith("\\$") and "|" not in inner
        return f"^(?:{inner.removesuffix('$')})$" if is_whole else f"^(?:{inner})"
    found = _NOT_ONLY.fullmatch(condition)
    return None if found is None else f"[^{found['class']}]"


def _group_end(text: str) -> int:
    """Behind the group that the text begins with; 0 where it has no end."""
    depth, is_class, place = 0, False, 0
    while place < len(text):
        match text[place]:
            case "\\":
                place += 1
            case "[" if not is_class:
                is_class = True
                place += text.startswith("^", place + 1)
                place += text.startswith("]", place + 1)
            case "]":
                is_class = False
            case "(" if not is_class:
                depth += 1
            case ")" if not is_class:
                depth -= 1
                if not depth:
                    return place + 1
        place += 1
    return 0
