"""A GGUF file's metadata with typed access: whatever is missing or of another type is named with the file, the key and what would be right.

Made by ``specgrove.models.weights.gguf_file``, read by all that makes something of a file. Imports neither torch nor transformers.
Invariant: nothing is converted in silence; what a value means is for the readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specgrove.files.checked_numbers import CheckedNumbers
from specgrove.models.errors import UnsupportedModelError

_SHOWN_LEN = 60


class GgufMetadata(CheckedNumbers):
    """Values by their keys, which may share a prefix that is left out here. A ``default`` of None says that there must be a value."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        """Strings and numbers are Python's, arrays of numbers are numpy's."""
        self._values = values
        self._path = path
        self._prefix = prefix

    def below(self, prefix: str) -> GgufMetadata:
        """That of one architecture, where a number may be a list for all layers."""
        return GgufMetadata(self._values, self._path, f"{self._prefix}{prefix}.")

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._values

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._values if key.startswith(self._prefix))

    def error(self, key: str, right: str) -> UnsupportedModelError:
        """To raise where a value is of the right type but makes no sense; ``right`` says what would."""
        shown = repr(self._values.get(self._prefix + key))
        shown = shown if len(shown) <= _SHOWN_LEN else shown[:_SHOWN_LEN] + "…"
        return UnsupportedModelError(f"{self._path} is broken: {self._prefix}{key} is {shown}, it should be {right}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. A list for all layers is taken where it is of one number."""
        value = self._alike(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.error(key, "a whole number")

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false; 1 and 0 are taken too."""
        value = self._value(key, default)
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise self.error(key, "true or false")

    def scalar(self, key: str) -> float:
        """A number, or a flag as 1 or 0."""
        value = self._alike(key, None)
        return float(value) if isinstance(value, bool) else self.number(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if isinstance(value, str):
            return value
        raise self.error(key, "text")

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty where it is left out."""
        value = self._values.get(self._prefix + key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.error(key, "a list of texts")

    def numbers(self, key: str) -> list[float]:
        """A list of numbers; empty where it is left out."""
        value = self._values.get(self._prefix + key, np.empty(0))
        if isinstance(value, np.ndarray):
            numbers: list[float] = value.tolist()
            return numbers
        raise self.error(key, "a list of numbers")

    def is_list(self, key: str) -> bool:
        """Whether there is a list of numbers or flags."""
        return isinstance(self._values.get(self._prefix + key), np.ndarray)

    def flags(self, key: str) -> list[bool]:
        """A list of true and false; 1 and 0 are taken too."""
        numbers = self.numbers(key)
        if all(number in (0, 1) for number in numbers):
            return [bool(number) for number in numbers]
        raise self.error(key, "a list of true and false")

    def _value(self, key: str, default: Any) -> Any:
        value = self._values.get(self._prefix + key, default)
        if value is None:
            raise UnsupportedModelError(f"{self._path} lacks {self._prefix}{key} in its metadata")
        return value

    def _number_at(self, key: str, default: float | None) -> Any:
        return self._alike(key, default)

    def _alike(self, key: str, default: Any) -> Any:
        value = self._value(key, default)
        if not self._prefix or not isinstance(value, np.ndarray) or not value.size:
            return value
        if (value == value[0]).all():
            return value[0].item()
        raise UnsupportedModelError(f"{self._path}: {self._prefix}{key} differs by layer, which is not supported")
