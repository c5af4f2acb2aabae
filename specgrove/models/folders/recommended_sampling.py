"""How a model's makers would have tokens chosen: sampling parameters in ``generation_config.json``. Read by the LLM service at its start.

A recommendation that makes no sense is left out, and the log says so: the model can be served all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from specgrove.files.json_files import JsonFileError, JsonObject, read_json_object
from specgrove.ranges import SAMPLING_RANGES

logger = logging.getLogger(__name__)

_FILE_NAME = "generation_config.json"
# Penalties count for greedy choices, too.
_OF_SAMPLING = ("temperature", "top_p", "min_p")
_OF_ALL = ("repetition_penalty",)


def recommended_sampling_of(folder: Path) -> Mapping[str, float]:
    """Values by their names in ``SamplingParams``; empty where the file is missing or names none.

    Where it says ``"do_sample": false``, what only sampling needs is left out, as transformers does not use it then. Raises
    ``JsonFileError`` for a file that holds no object, ``OSError``.
    """
    path = folder / _FILE_NAME
    if not path.is_file():
        return {}
    file = read_json_object(path)
    names = _OF_ALL if file.get("do_sample") is False else (*_OF_SAMPLING, "top_k", *_OF_ALL)
    return dict(_usable(file, names))


def _usable(file: JsonObject, names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    for name in names:
        if not file.has(name):
            continue
        try:
            yield name, _value(file, name)
        except JsonFileError as error:
            logger.warning("%s; it is not recommended to clients", error)


def _value(file: JsonObject, name: str) -> float:
    if name == "top_k":
        top_k = file.integer(name)
        if not 0 <= top_k < 1 << 32:
            raise file.error(name, "0 or more")
        return top_k
    value = file.number(name)
    if (problem := SAMPLING_RANGES[name].problem(value)) is not None:
        raise file.error(name, problem.removeprefix("must be ").partition(", got")[0])
    return value
