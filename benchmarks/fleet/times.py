"""Measured times that a simulation is fed with. All in milliseconds; in a JSON file, so that one machine's can be used on another."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

_CURVES = ("pass_ms", "prompt_ms", "overhead_ms", "level_ms")


@dataclass(slots=True)
class Rows:
    """What one pass computes: rows that are asked for a token, those of prompts, and the sessions that they are of."""

    num_asked: int = 0
    num_of_prompts: int = 0
    num_works: int = 0
    num_seen: int = 0
    """Tokens that rows see which are asked, in all."""
    num_seen_by_prompts: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """What things take on one machine, with one pair of models."""

    pass_ms: tuple[tuple[int, float], ...]
    """(rows, ms) of the LLM's passes, rising: between two points in proportion, beyond the last one in its proportion. Each row is asked
    for a token."""
    prompt_ms: tuple[tuple[int, float], ...] | None = None
    """The same of a prompt's rows, of which only the last one is asked; ``None``: they take as much."""
    overhead_ms: tuple[tuple[int, float], ...] = ((1, 0.0),)
    """(sessions, ms) of a pass, what is not the model: planning, acceptance, and what messages take of processors that the model shares."""
    context_ms: float = 0.0
    """Of a row that is asked, for each 1,000 tokens that it sees."""
    prompt_context_ms: float = 0.0
    """Of a prompt's row, for each 1,000 tokens before its chunk."""
    level_ms: tuple[tuple[int, float], ...] = ((1, 0.0),)
    """(rows, ms) of an SSM's pass over one level."""
    hop_ms: float = 0.0
    """From one service to another, one way."""
    request_ms: float = 0.0
    """A router's processor time for a request, beside its verdicts."""
    verdict_ms: float = 0.0
    """The same for a verdict."""
    client_ms: float = 0.0
    """From a client to a router and back, beside what is named above."""

    def __post_init__(self) -> None:
        for name in _CURVES:
            points = getattr(self, name) if getattr(self, name) is not None else ((1, 0.0),)
            rows = [row for row, _ in points]
            if not points or rows != sorted(set(rows)) or rows[0] < 1:
                raise ValueError(f"{name} must be (rows, ms) pairs with rising rows from 1 on, got {list(points)}")

    def pass_of(self, rows: Rows) -> float:
        """One pass."""
        own = _at(self.overhead_ms, rows.num_works)
        seen = (rows.num_seen * self.context_ms + rows.num_seen_by_prompts * self.prompt_context_ms) / 1e3
        if not rows.num_of_prompts:
            return own + seen + _at(self.pass_ms, rows.num_asked)
        # A prompt's last row is one that is asked: what others cost comes on top. A pass bound by memory hides some of few rows, one
        # bound by arithmetic hides nothing.
        prompt_ms = self.prompt_ms or self.pass_ms
        of_prompts = _at(prompt_ms, rows.num_of_prompts)
        others = max(
            _at(self.pass_ms, rows.num_asked + 1) - _at(self.pass_ms, 1),
            _at(prompt_ms, rows.num_of_prompts + rows.num_asked) - of_prompts,
        )
        return own + seen + of_prompts + others

    def level_of(self, num_rows: int) -> float:
        """An SSM's pass of so many rows."""
        return _at(self.level_ms, num_rows)

    @staticmethod
    def read(path: Path) -> Times:
        """Raises ``ValueError`` that names what is wrong with the file."""
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        known = {field.name for field in fields(Times)}
        if not isinstance(found, dict) or (unknown := sorted(found.keys() - known)):
            what = f"unknown keys {unknown}" if isinstance(found, dict) else "no object"
            raise ValueError(f"{path}: {what}; it may have {sorted(known)}")
        if "pass_ms" not in found:
            raise ValueError(f"{path}: pass_ms is missing: (rows, ms) pairs of the LLM's passes")
        values: dict[str, Any] = {
            name: _pairs(value) if name in _CURVES and value is not None else value for name, value in found.items()
        }
        return Times(**values)

    def write(self, path: Path) -> None:
        """As ``read`` takes it."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def rising(points: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Measured points, none below one of fewer rows: noise would make larger passes cheaper."""
    found: list[tuple[int, float]] = []
    for rows, ms in sorted(points):
        found.append((rows, max(ms, found[-1][1] if found else 0.0)))
    return tuple(found)


def mean_of(found: Sequence[Times]) -> Times:
    """Of one machine's measurements at several moments: its speed changes within minutes. Raises ``ValueError`` where there are none."""
    if not found:
        raise ValueError("no times were measured")
    return Times(**{field.name: _mean([getattr(times, field.name) for times in found]) for field in fields(Times)})


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of curves at all points of any of them; a curve that one measurement lacks counts for none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if isinstance(there[0], float | int):
        return sum(there) / len(there)
    all_rows = sorted({rows for curve in there for rows, _ in curve})
    return tuple((rows, sum(_at(curve, rows) for curve in there) / len(there)) for rows in all_rows)


def _pairs(values: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(rows), float(ms)) for rows, ms in values)


def _at(points: Sequence[tuple[int, float]], num_rows: int) -> float:
    place = bisect.bisect_left(points, (num_rows, 0.0))
    if place == 0:
        return points[0][1]
    if place == len(points):
        rows, ms = points[-1]
        return ms * num_rows / rows
    (rows, ms), (next_rows, next_ms) = points[place - 1], points[place]
    return ms + (next_ms - ms) * (num_rows - rows) / (next_rows - rows)
