"""Of all combinations of values so few that every two values of different axes still meet: what depends on two of them is found.

Kernels' tests take them instead of whole products, which show the same again and again and take most of the time of ``make test``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One value of each axis; greedily the combination with most pairs that were not there before, the first of several."""
    combinations = list(itertools.product(*(range(len(axis)) for axis in axes)))
    missing = set().union(*map(_pairs_of, combinations))
    found = []
    while missing:
        best = max(combinations, key=lambda one: len(missing & _pairs_of(one)))
        missing -= _pairs_of(best)
        found.append(tuple(axis[place] for axis, place in zip(axes, best, strict=True)))
    return found


def pairs_and(rest: pytest.MarkDecorator, *axes: Iterable[Any]) -> list[Any]:
    """All combinations, as parameters: first ``pairs``, then the others, with the mark ``rest``."""
    values = [list(axis) for axis in axes]
    first = pairs(*values)
    others = [combination for combination in itertools.product(*values) if combination not in first]
    return [*first, *(pytest.param(*combination, marks=rest) for combination in others)]


def in_turn(rest: pytest.MarkDecorator, values: Iterable[Any], ways: Sequence[Any]) -> list[Any]:
    """Each of many values in one of a few ways, which take turns; the other combinations have the mark ``rest``."""
    return [
        pytest.param(value, way, marks=() if number == place % len(ways) else rest)
        for place, value in enumerate(values)
        for number, way in enumerate(ways)
    ]


def _pairs_of(combination: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(itertools.combinations(enumerate(combination), 2))
