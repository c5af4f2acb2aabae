"""What was found: a fact that is well, one to look at, or one that a suite could not run with."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """``area`` is what was looked at, ``text`` what there is and what would be right, ``facts`` the same for machines."""

    area: str
    level: Level
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def ok(area: str, text: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(area, Level.OK, text, facts)


def warning(area: str, text: str, **facts: Any) -> Finding:
    """A suite runs, perhaps not as it could."""
    return Finding(area, Level.WARNING, text, facts)


def error(area: str, text: str, **facts: Any) -> Finding:
    """A suite does not run so."""
    return Finding(area, Level.ERROR, text, facts)
