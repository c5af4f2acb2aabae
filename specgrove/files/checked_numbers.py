"""The checks of numbers that stand in a model's files, whatever the format. Base of ``JsonObject`` and ``GgufMetadata``.

Invariant: what a file may hold as a size, a number or a positive number is decided here alone.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

MAX_SIZE = 2**31 - 1


class CheckedNumbers(ABC):
    """Values by their keys. A ``default`` of None says that there must be a value."""

    @abstractmethod
    def error(self, key: str, right: str) -> Exception:
        """To raise where a value is of the right type but makes no sense; ``right`` says what would."""

    @abstractmethod
    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""

    @abstractmethod
    def _number_at(self, key: str, default: float | None) -> Any:
        """What is there, maybe no number."""

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; none is as large as ``MAX_SIZE``."""
        value = self.integer(key, default)
        if value < 1:
            raise self.error(key, "a whole number of at least 1")
        if value > MAX_SIZE:
            raise self.error(key, f"at most {MAX_SIZE}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Finite."""
        value = self._number_at(key, default)
        # Whole numbers of any length among them, which ``math.isfinite`` can't take.
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
        raise self.error(key, "a number")

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise self.error(key, "a number above 0")
        return value
