"""The lines of the GPU benchmark's table, and how contestants take turns.

A row's ``value`` is a ratio, or a time where the target is one; ``times_limit`` is its time over what this card needs for the bytes that
must be read, at the copy bandwidth of the same run. Every part of ``benchmarks.gpu`` makes such rows.
"""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.card import Clock


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a row's value."""

    bound: float
    is_ceiling: bool

    def is_met(self, value: float) -> bool:
        """Whether ``value`` is within it."""
        return value <= self.bound if self.is_ceiling else value >= self.bound

    def share(self, value: float) -> float:
        """1 where it is just met, more where there is room."""
        return self.bound / value if self.is_ceiling else value / self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.is_ceiling else '>='} {self.bound:g}"


def at_most(bound: float) -> Target:
    """A ceiling."""
    return Target(bound, is_ceiling=True)


def at_least(bound: float) -> Target:
    """A floor."""
    return Target(bound, is_ceiling=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line. Where something was skipped, ``note`` says why and there is no value."""

    part: str
    what: str
    value: float | None
    unit: str
    target: Target | None = None
    ms: float | None = None
    spread_ms: tuple[float, float] | None = None
    times_limit: float | None = None
    note: str = ""
    is_full: bool = True
    """Measured on a GPU, with models and batches of their real sizes."""

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``skipped``, ``tiny``, or nothing where there is no target."""
        if self.value is None:
            return "skipped"
        if self.target is None:
            return ""
        if not self.is_full:
            return "tiny"
        return "met" if self.target.is_met(self.value) else "missed"


def broken(part: str, what: str, unit: str, target: Target | None, error: BaseException) -> Row:
    """A row of what went wrong; where it did goes to stderr."""
    traceback.print_exception(error)
    return skipped(part, what, unit, target, first_line(error))


def skipped(part: str, what: str, unit: str, target: Target | None, reason: str) -> Row:
    """A row of something that can't be measured here."""
    return Row(part, what, None, unit, target, note=reason)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one contestant, in ms, turn by turn."""

    all_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Over the turns."""
        return statistics.median(self.all_ms)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Fastest and slowest turn."""
        return min(self.all_ms), max(self.all_ms)


def by_turns(contestants: Mapping[str, Callable[[], object]], clock: Clock, num_turns: int) -> dict[str, Times | str]:
    """Times contestants by turns, after two calls of each that aren't counted; of one that can't run, the reason."""
    found: dict[str, Times | str] = {}
    running = {}
    for name, run in contestants.items():
        try:
            run()
            run()
        except (RuntimeError, NotImplementedError, ValueError) as error:  # out of memory is a RuntimeError
            found[name] = first_line(error)
        else:
            running[name] = run
    times_ms: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(num_turns):
        for name, run in running.items():
            times_ms[name].append(clock.ms(run))
    return found | {name: Times(tuple(own)) for name, own in times_ms.items()}


def row_from(fields: dict[str, Any]) -> Row:
    """From what ``dataclasses.asdict`` makes of a row, as JSON brings it back."""
    target, spread_ms = fields["target"], fields["spread_ms"]
    changed = {"target": target and Target(**target), "spread_ms": spread_ms and tuple(spread_ms)}
    return Row(**(fields | changed))


def first_line(error: BaseException) -> str:
    """What went wrong, in short."""
    lines: Sequence[str] = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]
