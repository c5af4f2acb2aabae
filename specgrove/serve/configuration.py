"""``init``: on what LLMs that are made after it run. Its names are FlexFlow Serve's, and those of the services' settings.

Invariant: a configuration holds values of the right type and range; what depends on the model is checked by ``compile``.
"""

from __future__ import annotations

import argparse
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specgrove.cpus import available_cpus
from specgrove.serve.errors import ConfigurationError
from specgrove.settings import Setting, given_arguments, suite_settings
from specgrove.settings.setting import in_words

# As Legion, whose options these are, counts them.
_BYTES_PER_MB = 2**20
# Keys of the dictionaries that FlexFlow's scripts give to init as a whole, and what reads them here.
_FOR_OTHERS = {
    "llm_model": "LLM(model_name)",
    "ssms": "LLM.compile(ssms)",
    "ssm_model": "SSM(model_name)",
    "cache_path": "LLM(cache_path)",
    "refresh_cache": "LLM(refresh_cache)",
    "full_precision": "LLM(data_type)",
    "output_file": "LLM(output_file)",
    "prompt": "LLM.generate",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """How the services of an LLM run. ``None`` leaves a value to them.

    ``max_num_requests`` and ``arguments``, the flags by service, come from the services' own settings.
    """

    device: str | None = None
    memory_per_rank_bytes: int | None = None
    num_threads: int | None = None
    num_llm_replicas: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    has_offload: bool = False
    quantization: str = "none"
    max_num_requests: int | None = None
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def init(configs_dict: Mapping[str, Any] | None = None, **settings: Any) -> None:
    """Says on what the LLMs that are made after it run. All of it may be left out, and so may the call.

    Takes a dictionary or keywords: ``num_gpus`` (0: the CPU), ``memory_per_gpu`` (MB that each process of the LLM may take),
    ``num_cpus`` (threads), ``tensor_parallelism_degree``, ``pipeline_parallelism_degree``, ``data_parallelism_degree`` (LLM services
    that share the requests), ``offload``, ``use_8bit_quantization``, ``use_4bit_quantization``; FlexFlow's others are accepted
    and change nothing. Every setting of ``specgrove serve --help`` may be given too, with ``_`` for ``-``: ``kv_slots=4096``.
    docs/python.md has them all. Raises ``ConfigurationError``, for an unknown name with the nearest that there is.
    """
    if configs_dict is not None and settings:
        raise ConfigurationError("init takes a dictionary or keywords, not both")
    if configs_dict is None:
        _State.configuration = configuration_of(settings)
        return
    if not isinstance(configs_dict, Mapping):
        raise ConfigurationError(f"init takes a dictionary or keywords, got a {type(configs_dict).__name__}")
    _State.configuration = configuration_of(
        {name: value for name, value in configs_dict.items() if name not in _FOR_OTHERS}
    )


def current_configuration() -> Configuration:
    """What ``init`` said last."""
    return _State.configuration


def configuration_of(values: Mapping[str, Any], *, has_gpu: Callable[[], bool] | None = None) -> Configuration:
    """Raises ``ConfigurationError``. A value of ``None`` is one that was not given."""
    given = {name: value for name, value in values.items() if value is not None}
    _check_names(given)
    known = {name: INIT_SETTINGS[name].read(name, value) for name, value in given.items() if name in INIT_SETTINGS}
    own = {name: value for name, value in given.items() if name not in INIT_SETTINGS}
    if known.get("use_4bit_quantization") and known.get("use_8bit_quantization"):
        raise ConfigurationError("use_4bit_quantization and use_8bit_quantization can't both be true")
    num_gpus = known.get("num_gpus")
    # GPUs that are not there can't be shared out: their number, their memory and how models lie on them mean nothing here.
    is_without = bool(num_gpus) and not (has_gpu or _has_gpu)()
    on_gpus: Mapping[str, Any] = {} if is_without else known
    num_cpus = known.get("num_cpus")
    settings = _read_settings(own)
    arguments = given_arguments(argparse.Namespace(**settings))
    return Configuration(
        device="cpu" if num_gpus == 0 or is_without else None,
        memory_per_rank_bytes=on_gpus.get("memory_per_gpu"),
        num_threads=None if num_cpus is None else min(num_cpus, available_cpus()),
        num_llm_replicas=on_gpus.get("data_parallelism_degree", 1),
        tensor_parallel=on_gpus.get("tensor_parallelism_degree", 1),
        pipeline_parallel=on_gpus.get("pipeline_parallelism_degree", 1),
        has_offload=known.get("offload", False),
        quantization=(
            "int4" if known.get("use_4bit_quantization") else "int8" if known.get("use_8bit_quantization") else "none"
        ),
        max_num_requests=settings.get("max_requests"),
        arguments={service: words for service, words in arguments.items() if words},
    )


class _State:
    """FlexFlow's ``init`` comes before the objects that it is for, so what it says must be kept somewhere: here, and only here."""

    configuration = Configuration()


def whole_number(name: str, value: object, minimum: int) -> int:
    """numpy's whole numbers are taken, too. Raises ``ConfigurationError``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ConfigurationError(f"{name} must be a whole number, {minimum} or more, got {value!r}")
    return number


def nearest(name: str, known: Iterable[str]) -> str:
    """For the text of an error: the name that was perhaps meant, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _check_names(given: Mapping[str, Any]) -> None:
    names = (*INIT_SETTINGS, *(known.setting.attribute for known in suite_settings()))
    for name in given:
        if name in _FOR_OTHERS:
            raise ConfigurationError(f"{name} is no setting of init: it is for {_FOR_OTHERS[name]}")
        if name not in names:
            raise ConfigurationError(f"init has no setting {name!r}{nearest(str(name), names)}")


def _read_settings(own: Mapping[str, Any]) -> dict[str, Any]:
    settings = {known.setting.attribute: known.setting for known in suite_settings()}
    return {name: _read_setting(name, settings[name], value) for name, value in own.items()}


def _read_setting(name: str, setting: Setting, value: object) -> object:
    if setting.is_switch:
        # ``None`` is a flag that was not given.
        return _truth(name, value) or None
    try:
        read: object = setting.read(in_words(value))
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from error
    if setting.choices is not None and read not in setting.choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(setting.choices)}, got {value!r}")
    return read


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


@dataclass(frozen=True, slots=True)
class InitSetting:
    """``read`` turns what was given for the name into a value, or raises ``ConfigurationError``. Without an effect it is only checked."""

    read: Callable[[str, Any], Any]
    has_effect: bool = True


def _count(name: str, value: object) -> int:
    return whole_number(name, value, 1)


def _number_of_gpus(name: str, value: object) -> int:
    return whole_number(name, value, 0)


def _bytes_of_megabytes(name: str, value: object) -> int:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    return whole_number(name, value, 1) * _BYTES_PER_MB


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, got {value!r}")
    return value


INIT_SETTINGS = {
    "num_gpus": InitSetting(_number_of_gpus),
    "memory_per_gpu": InitSetting(_bytes_of_megabytes),
    "zero_copy_memory_per_node": InitSetting(_bytes_of_megabytes, has_effect=False),
    "num_cpus": InitSetting(_count),
    "legion_utility_processors": InitSetting(_count, has_effect=False),
    "data_parallelism_degree": InitSetting(_count),
    "tensor_parallelism_degree": InitSetting(_count),
    "pipeline_parallelism_degree": InitSetting(_count),
    "offload": InitSetting(_truth),
    "offload_reserve_space_size": InitSetting(_bytes_of_megabytes, has_effect=False),
    "use_4bit_quantization": InitSetting(_truth),
    "use_8bit_quantization": InitSetting(_truth),
    "profiling": InitSetting(_truth, has_effect=False),
    "inference_debugging": InitSetting(_truth, has_effect=False),
    "fusion": InitSetting(_truth, has_effect=False),
}
"""FlexFlow Serve's names. All other names are settings of the services."""
