"""Reads the JSON files of a model folder, and the values in them, so that whatever is wrong is told with the file, the key and the remedy.

Used by all that reads ``config.json`` and its like. Imports neither torch nor transformers. Invariant: no other exception than
``JsonFileError`` and ``OSError`` leaves this module, whatever a file holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from specgrove.files.checked_numbers import CheckedNumbers

_LFS_PREFIX = b"version https://git-lfs.github.com/spec/"
_SHOWN_LEN = 60


class JsonFileError(ValueError):
    """A file, or a value in it, is not what it should be. The text names file and key, and says what would be right."""


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what git leaves in place of a large file that was not fetched. False where there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS_PREFIX)) == _LFS_PREFIX
    except OSError:
        return False


def lfs_remedy(path: Path) -> str:
    """What to say of a pointer."""
    return (
        f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or fetch the file again"
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``JsonFileError``, and ``OSError`` where it can't be read at all."""
    data = path.read_bytes()  # once: it may be a pipe
    if data.startswith(_LFS_PREFIX):
        raise JsonFileError(lfs_remedy(path))
    if not data.strip():
        raise JsonFileError(f"{path} is empty, it should hold JSON: fetch it again")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise JsonFileError(f"{path} is no text in UTF-8 ({error}), it should hold JSON: fetch it again") from error
    except (ValueError, RecursionError) as error:
        raise JsonFileError(f"{path} is not JSON ({error}): mend it, or fetch it again") from error


def read_json_object(path: Path) -> JsonObject:
    """A file that must hold an object. Raises as ``read_json``."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise JsonFileError(f"{path} holds {_kind(content)}, it should hold a JSON object ({{...}})")
    return JsonObject(content, str(path))


def read_json_texts(path: Path) -> tuple[str, ...]:
    """A file that must hold a list of texts. Raises as ``read_json``."""
    content = read_json(path)
    right = 'it should hold a list of texts (["...", "..."])'
    if not isinstance(content, list):
        raise JsonFileError(f"{path} holds {_kind(content)}, {right}")
    for number, element in enumerate(content, start=1):
        if not isinstance(element, str):
            raise JsonFileError(f"{path}: element {number} of the list is {_kind(element)}, {right}")
    return tuple(content)


class JsonObject(CheckedNumbers, Mapping[str, Any]):
    """An object with typed access: a value of the wrong type is named with its file. ``null`` counts as left out, as in transformers."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self.place = place
        """The file, and the way to this object in it."""

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def error(self, key: str, right: str) -> JsonFileError:
        """To raise where a value is of the right type but makes no sense; ``right`` says what would."""
        return JsonFileError(f"{self.place}: {key} is {_shown(self._values.get(key))}, it should be {right}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number, maybe written as 2.0."""
        value = self._value(key, default, "a whole number")
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.error(key, "a whole number")

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``; 1 and 0 are taken too."""
        value = self._value(key, default, "true or false")
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise self.error(key, "true or false")

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default, "text")
        if isinstance(value, str):
            return value
        raise self.error(key, "text")

    def object(self, key: str) -> JsonObject:
        """An object in this one; empty where it is left out."""
        value = self._value(key, {}, "an object")
        if isinstance(value, Mapping):
            return JsonObject(value, f"{self.place}: {key}")
        raise self.error(key, "an object ({...})")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where it is left out."""
        value = self._value(key, [], "a list of texts")
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self.error(key, "a list of texts")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id or a list of them; empty where it is left out."""
        value = self._value(key, [], "a token id or a list of them")
        ids = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(token_id, int) and not isinstance(token_id, bool) for token_id in ids):
            return tuple(ids)
        raise self.error(key, "a token id (a whole number) or a list of them")

    def has(self, key: str) -> bool:
        """Whether there is a value that is not null."""
        return self._values.get(key) is not None

    def _number_at(self, key: str, default: float | None) -> Any:
        return self._value(key, default, "a number")

    def _value(self, key: str, default: Any, right: str) -> Any:
        value = self._values.get(key)
        if value is not None:
            return value
        if default is None:
            state = "is null" if key in self._values else "is missing"
            raise JsonFileError(f"{self.place}: {key} {state}, it should be {right}")
        return default


def _kind(content: Any) -> str:
    if content is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(content), type(content).__name__)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN_LEN else text[:_SHOWN_LEN] + "…"
