"""How figures that differ from prompt to prompt are told: by their median, and the quarters below and above it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quartiles:
    """A quarter of the values is below ``low``, half of them below ``median``, a quarter above ``high``."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Quartiles:
        """From at least one value."""
        found = list(values)
        if len(found) == 1:
            return Quartiles(found[0], found[0], found[0])
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        return Quartiles(low, median, high)
