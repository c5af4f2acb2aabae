"""Lists of numbers in the configurations of SSMs that read hidden states."""

from __future__ import annotations

from specgrove.files.json_files import JsonObject


def layer_numbers(config: JsonObject, key: str) -> tuple[int, ...]:
    """Layers, rising. Raises ``JsonFileError``, also where there are none."""
    value = config.get(key)
    is_list = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    if not is_list or not value or list(value) != sorted(set(value)):
        raise config.error(key, "a list of layer numbers, rising")
    return tuple(value)


def numbers_between(config: JsonObject, key: str, least: float, most: float) -> tuple[float, ...]:
    """At least one. Raises ``JsonFileError``."""
    value = config.get(key)
    is_list = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not is_list or not value or not all(least <= item <= most for item in value):
        raise config.error(key, f"a list of numbers from {least:g} to {most:g}")
    return tuple(float(item) for item in value)
