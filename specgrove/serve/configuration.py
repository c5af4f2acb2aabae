"""``init``: on what LLMs that are made after it run. Its names are FlexFlow Serve's, and those of the services' settings.

Invariant: a configuration holds values of the right type and range; what depends on the model is checked by ``compile``.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from specgrove.machine.cpus import available_cpus
from specgrove.machine.folders import typed_path
from specgrove.machine.gpus import may_have_gpu
from specgrove.serve.errors import ConfigurationError, told_as_configuration
from specgrove.settings import Place, Setting, SuiteFlag, SuiteSettings, in_words, nearest, setting_at, suite_flags

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
# Ours that objects are made with.
_OF_OBJECTS = {
    "llm": "LLM(model_name)",
    "ssm": "LLM.compile(ssms)",
    "ssm_ssm": "LLM.compile(ssms)",
    "dtype": "LLM(data_type)",
    "llm_dtype": "LLM(data_type)",
    "ssm_dtype": "SSM(data_type)",
}
# FlexFlow's that mean nothing without GPUs.
_OF_GPUS: dict[str, Place] = {
    "memory_per_gpu": ("llm", "memory-per-gpu"),
    "data_parallelism_degree": ("", "llm-replicas"),
    "tensor_parallelism_degree": ("llm", "tensor-parallel"),
    "pipeline_parallelism_degree": ("llm", "pipeline-parallel"),
}


def init(configs_dict: Mapping[str, Any] | None = None, **settings: Any) -> None:
    """Says on what the LLMs that are made after it run. All of it may be left out, and so may the call.

    Takes a dictionary or keywords: ``num_gpus`` (0: the CPU), ``memory_per_gpu`` (MB that each process of the LLM may take),
    ``num_cpus`` (threads), ``tensor_parallelism_degree``, ``pipeline_parallelism_degree``, ``data_parallelism_degree`` (LLM services
    that share the requests), ``offload``, ``use_8bit_quantization``, ``use_4bit_quantization``; FlexFlow's others are accepted
    and change nothing. Every setting of ``specgrove serve --help`` may be given too, with ``_`` for ``-``: ``kv_slots=4096``;
    ``config="suite.yaml"`` is a file of them, which all others go before.
    docs/python.md and docs/settings.md have them all. Raises ``ConfigurationError``, for an unknown name with the nearest that there is.
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


def current_configuration() -> SuiteSettings:
    """What ``init`` said last."""
    return _State.configuration


def configuration_of(values: Mapping[str, Any], *, has_gpu: Callable[[], bool] | None = None) -> SuiteSettings:
    """Raises ``ConfigurationError``. A value of ``None`` is one that was not given."""
    given = {name: value for name, value in values.items() if value is not None}
    in_file = _file_settings(given.pop("config", None))
    _check_names(given)
    known = {name: INIT_SETTINGS[name].read(name, value) for name, value in given.items() if name in INIT_SETTINGS}
    if known.get("use_4bit_quantization") and known.get("use_8bit_quantization"):
        raise ConfigurationError("use_4bit_quantization and use_8bit_quantization can't both be true")
    own = {name: value for name, value in given.items() if name not in INIT_SETTINGS}
    return _own_settings(own).over(_settings_of(known, has_gpu or may_have_gpu)).over(in_file)


def _file_settings(path: object) -> SuiteSettings:
    if path is None:
        return SuiteSettings()
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"config must be the path of a YAML file, got {path!r}")
    # Brings a library that most programs don't need.
    from specgrove.settings.config_file import read_config_file

    with told_as_configuration():
        return read_config_file(typed_path(path), is_for_suite=True)


def _settings_of(known: Mapping[str, Any], has_gpu: Callable[[], bool]) -> SuiteSettings:
    """FlexFlow's names as ours."""
    num_gpus = known.get("num_gpus")
    # GPUs that are not there can't be shared out: their number, their memory and how models lie on them mean nothing here.
    is_without = bool(num_gpus) and not has_gpu()
    found: dict[Place, Any] = {}
    if num_gpus == 0 or is_without:
        found |= {("llm", "device"): "cpu", ("ssm", "device"): "cpu"}
    if (num_cpus := known.get("num_cpus")) is not None:
        num_threads = min(num_cpus, available_cpus())
        found |= {("llm", "threads"): num_threads, ("ssm", "threads"): num_threads}
    for name, place in _OF_GPUS.items():
        if name in known and not is_without:
            found[place] = setting_at(place).value_of(str(known[name]))
    if known.get("offload"):
        found["llm", "offload"] = True
    for name, quantization in (("use_4bit_quantization", "int4"), ("use_8bit_quantization", "int8")):
        if known.get(name):
            found["llm", "quantization"] = quantization
    return SuiteSettings(found)


class _State:
    """FlexFlow's ``init`` comes before the objects that it is for, so what it says must be kept somewhere: here, and only here."""

    configuration = SuiteSettings()


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


def _check_names(given: Mapping[str, Any]) -> None:
    names = (*INIT_SETTINGS, *_own_flags(), "config")
    for name in given:
        if (place := _FOR_OTHERS.get(name) or _OF_OBJECTS.get(name)) is not None:
            raise ConfigurationError(f"{name} is no setting of init: it is for {place}")
        if name not in names:
            raise ConfigurationError(f"init has no setting {name!r}{nearest(str(name), names)}")


def _own_flags() -> dict[str, SuiteFlag]:
    """The settings of ``specgrove serve`` by their names in Python: ``kv_slots``, ``llm_kv_slots``; those for one service come last."""
    flags = {flag.attribute.replace(".", "_"): flag for flag in suite_flags()}
    return {name: flag for name, flag in flags.items() if name not in _FOR_OTHERS and name not in _OF_OBJECTS}


def _own_settings(own: Mapping[str, Any]) -> SuiteSettings:
    given: dict[Place, Any] = {}
    for name, flag in _own_flags().items():
        if name in own:
            value = _value_of(name, flag.setting, own[name])
            given |= {(section, flag.setting.name): value for section in flag.sections}
    return SuiteSettings(given)


def _value_of(name: str, setting: Setting, value: object) -> object:
    if setting.is_switch:
        return _truth(name, value)
    try:
        return setting.value_of(in_words(value))
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from error


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
