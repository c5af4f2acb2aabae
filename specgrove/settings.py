"""Every setting of the three services, declared once: its flag, meaning, unit and default.

``python -m router``, ``llm_service`` and ``ssm_service`` read their command lines by these tables, and ``specgrove serve`` offers
the same flags and hands on what was given. Imports nothing heavy. Invariant: a value that a table accepts is of the right
type and range; what depends on the model or on other settings is checked by the service.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specgrove.addresses import checked_address
from specgrove.config import (
    DEFAULT_ADDRESS,
    DEFAULT_DTYPE,
    DEFAULT_LLM,
    DEVICES,
    DTYPES,
    GPU_KERNELS,
    MAX_NUM_TREE_NODES,
    MAX_PUBLIC_REQUEST_BYTES,
    OFFLOADED_STEP_TIMEOUT_S,
    QUANTIZATIONS,
    STEP_TIMEOUT_S,
)
from specgrove.cpus import available_cpus
from specgrove.folders import default_cache_dir


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag of a service. ``read`` turns its text into a value, or raises ``ValueError`` with what would be right.

    ``default`` may be a function, for what depends on the machine.
    ``is_shared``: services that have it take the same value; ``specgrove serve`` has one flag for all of them.
    ``is_of_suite``: ``specgrove serve`` sets it itself, or has a flag of its own for it.
    """

    name: str
    help: str
    default: Any = None
    read: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    is_switch: bool = False
    is_repeatable: bool = False
    is_shared: bool = False
    is_of_suite: bool = False

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name}"

    @property
    def attribute(self) -> str:
        """Of the parsed command line."""
        return self.name.replace("-", "_")


def at_least(minimum: int) -> Callable[[str], int]:
    """Whole numbers from ``minimum`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise ValueError(f"must be a whole number, {minimum} or more, got {text!r}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """0 or more."""
    return _number(text, "a number of seconds, 0 or more", is_zero_right=True)


def positive_seconds(text: str) -> float:
    """More than 0."""
    return _number(text, "a number of seconds above 0", is_zero_right=False)


def milliseconds(text: str) -> float:
    """0 or more."""
    return _number(text, "a number of milliseconds, 0 or more", is_zero_right=True)


def _number(text: str, right: str, *, is_zero_right: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < 1e9) or (value == 0 and not is_zero_right):
        raise ValueError(f"must be {right}, got {text!r}")
    return value


def parse_bytes(text: str) -> int:
    """ "2GiB", "500MB", "1.5G" or a plain number of bytes. Raises ``ValueError``."""
    units = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
    units |= {f"{unit}ib": factor for unit, factor in list(units.items()) if len(unit) == 1 and unit != "b"}
    units |= {f"{unit}b": 1000**power for power, unit in enumerate(("k", "m", "g", "t"), start=1)}
    stripped = text.strip().lower()
    number = stripped.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = stripped[len(number) :].strip()
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no amount of memory: write 2GiB, 500MB or a number of bytes") from None
    if not 1 <= value < 2**60:
        raise ValueError(f"{text!r} is no amount of memory that makes sense")
    return int(value)


def stages(text: str) -> tuple[int, ...]:
    """``(2,)``: two pipeline stages; ``(10, 12, 8)``: three, with these numbers of layers."""
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(f"must be a number of stages (2), or the stages' numbers of layers (10,12,8), got {text!r}")
    return tuple(numbers)


def _path(text: str) -> Path:
    return Path(text).expanduser()


_LOGGING = (
    Setting(
        "log-level", "what to log on stderr", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), is_shared=True
    ),
    Setting(
        "log-format", "text for people, or one JSON object a line", "text", choices=("text", "json"), is_shared=True
    ),
)
DRAIN = Setting(
    "drain-timeout-s", "time that requests may go on after SIGTERM", 30.0, seconds, metavar="S", is_of_suite=True
)
CACHE_DIR = Setting(
    "cache-dir", "where converted models are kept", default_cache_dir, _path, metavar="DIR", is_shared=True
)
_MODEL_SERVICE = (
    Setting("dtype", "of weights and KV caches", DEFAULT_DTYPE, choices=DTYPES, is_shared=True, is_of_suite=True),
    Setting("device", "where the models run; auto: on a GPU if there is one", "auto", choices=DEVICES, is_shared=True),
    Setting(
        "gpu-kernels",
        "on a GPU; auto: where they can run a model and pass a check at the start; off: ops of torch; require: nothing else",
        "auto",
        choices=GPU_KERNELS,
        is_shared=True,
    ),
    Setting(
        "session-ttl-s",
        "time after which an idle session is forgotten",
        300.0,
        positive_seconds,
        metavar="S",
        is_shared=True,
    ),
    Setting(
        "step-timeout-s",
        "time after which a step is taken to hang, and the service ends to be started again;"
        f" unset: {STEP_TIMEOUT_S:.0f}, with --offload {OFFLOADED_STEP_TIMEOUT_S:.0f}, more for LLMs of billions on a CPU",
        None,
        positive_seconds,
        metavar="S",
        is_shared=True,
    ),
    DRAIN,
    CACHE_DIR,
    *_LOGGING,
)


def _threads(what: str) -> Setting:
    return Setting("threads", what, available_cpus, at_least(1), metavar="N", is_of_suite=True)


ROUTER = (
    Setting(
        "address",
        "where clients connect, HOST:PORT or unix:/path",
        DEFAULT_ADDRESS,
        checked_address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "llm",
        "an LLM service; repeat for replicas of one model",
        None,
        checked_address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting(
        "ssm",
        "an SSM service; repeat for more, or leave out",
        None,
        checked_address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting("max-requests", "requests served at once", 64, at_least(1), metavar="N"),
    Setting("max-queued", "requests that may wait for their turn", 256, at_least(0), metavar="N"),
    Setting(
        "max-requests-per-connection",
        "of --max-requests those of one connection; unset: three quarters",
        None,
        at_least(1),
        metavar="N",
    ),
    Setting("max-request-bytes", "size of a request's message", MAX_PUBLIC_REQUEST_BYTES, parse_bytes, metavar="BYTES"),
    Setting(
        "max-request-s",
        "time that one request may take; unset: as long as its client waits",
        None,
        positive_seconds,
        metavar="S",
    ),
    Setting(
        "reader-timeout-s",
        "time that a client may leave its stream unread before its request is ended",
        30.0,
        positive_seconds,
        metavar="S",
    ),
    Setting("max-tree-nodes", "nodes per tree, root not counted; 0: none", 32, at_least(0), metavar="N"),
    Setting("max-tree-depth", "depth of the trees", 8, at_least(1), metavar="N"),
    Setting("beam-width", "nodes expanded per level; unset: each SSM's own", None, at_least(1), metavar="N"),
    Setting(
        "tree-policy",
        "adaptive: size the trees by measurement, up to the limits above; static: always ask for the limits",
        "adaptive",
        choices=("adaptive", "static"),
    ),
    Setting(
        "replica-wait-s",
        "how long a request waits for a lost LLM service; large models load for minutes",
        300.0,
        seconds,
        metavar="S",
    ),
    Setting("busy-wait-s", "how long a request waits for an LLM service without room", 10.0, seconds, metavar="S"),
    DRAIN,
    Setting("tls-certificate", "PEM file; with --tls-private-key, clients connect by TLS", None, _path, metavar="FILE"),
    Setting("tls-private-key", "PEM file", None, _path, metavar="FILE"),
    Setting("tls-client-ca", "PEM file; clients must have a certificate of this CA", None, _path, metavar="FILE"),
    *_LOGGING,
)

LLM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50052",
        checked_address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting("model", "model folder, .gguf file or hub id", DEFAULT_LLM, metavar="MODEL", is_of_suite=True),
    Setting(
        "quantization", "of weights: made once and kept in --cache-dir", "none", choices=QUANTIZATIONS, is_of_suite=True
    ),
    Setting("tensor-parallel", "ranks that share every layer", 1, at_least(1), metavar="N"),
    Setting(
        "pipeline-parallel",
        "stages that the layers are divided over: their number, or each stage's number of layers",
        (1,),
        stages,
        metavar="N|L,L,...",
    ),
    _threads("threads of the CPU kernels, of all ranks together"),
    Setting("kv-slots", "one-token KV slots, shared by all sessions", 32768, at_least(1), metavar="N"),
    Setting(
        "kv-memory", "memory of each rank's KV slots (2GiB), instead of --kv-slots", None, parse_bytes, metavar="BYTES"
    ),
    Setting(
        "memory-per-gpu",
        "all the memory that a rank may take, on a CPU too: KV slots get what is left; instead of --kv-slots",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting(
        "offload",
        "weights that don't fit: on a GPU in the host's pinned memory, on a CPU in a file; fetched a layer ahead",
        False,
        is_switch=True,
    ),
    Setting(
        "max-weight-memory",
        "with --offload, and implies it: memory of each rank's weights; unset: what is available",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting("offload-reserve-bytes", "with --offload: memory left to others", 1 << 30, parse_bytes, metavar="BYTES"),
    Setting(
        "max-model-len",
        "longest prompt + output in tokens; unset: what the model allows",
        None,
        at_least(2),
        metavar="N",
    ),
    Setting("max-chunk-tokens", "rows of one forward pass that prompts may fill", 256, at_least(1), metavar="N"),
    Setting(
        "max-tree-rows",
        "rows of one forward pass that token trees may fill; at least the nodes of one tree",
        512,
        at_least(MAX_NUM_TREE_NODES),
        metavar="N",
    ),
    Setting(
        "stream-interval-ms",
        "least time between two messages of an output decoded without trees: tokens go out together; 0: each at once",
        20.0,
        milliseconds,
        metavar="MS",
    ),
    *_MODEL_SERVICE,
)

SSM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50053",
        checked_address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting("ssm", "an SSM", None, metavar="SPEC", is_repeatable=True, is_of_suite=True),
    _threads("threads of the CPU kernels"),
    Setting("kv-slots", "one-token KV slots of each SSM, shared by all sessions", 32768, at_least(1), metavar="N"),
    *_MODEL_SERVICE,
)

SERVICES: dict[str, tuple[Setting, ...]] = {"router": ROUTER, "llm_service": LLM, "ssm_service": SSM}


def add_settings(parser: Any, settings: Sequence[Setting], *, has_defaults: bool = True) -> None:
    """Adds the flags to a parser or a group of one. Without defaults, what was not given is ``None``."""
    for setting in settings:
        options: dict[str, Any] = {"help": setting.help, "dest": setting.attribute}
        usual = setting.default() if callable(setting.default) else setting.default
        default = usual if has_defaults else None
        if setting.is_switch:
            parser.add_argument(setting.flag, action="store_true", default=default, **options)
            continue
        if usual is not None:
            options["help"] += f" (default: {_in_words(usual)})"
        if setting.is_repeatable:
            options["action"] = "append"
        parser.add_argument(
            setting.flag,
            type=typed(setting.read),
            default=default,
            choices=setting.choices,
            metavar=setting.metavar,
            **options,
        )


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse's ``type``, which hides the messages of ``ValueError``s."""

    def typed_read(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed_read


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class SuiteSetting:
    """A flag of ``specgrove serve``, and the services that get its value under ``Setting.name``."""

    setting: Setting
    services: tuple[str, ...]
    name_there: str


def suite_settings() -> tuple[SuiteSetting, ...]:
    """The services' settings as flags of one command: shared ones once, names that two services have with the SSM's prefixed."""
    found: dict[str, SuiteSetting] = {}
    for service, settings in SERVICES.items():
        for setting in settings:
            if setting.is_of_suite:
                continue
            known = found.get(setting.name)
            if known is not None and setting.is_shared:
                found[setting.name] = replace(known, services=(*known.services, service))
                continue
            name = setting.name if known is None else f"{service.removesuffix('_service')}-{setting.name}"
            found[name] = SuiteSetting(replace(setting, name=name), (service,), setting.name)
    return tuple(found.values())


def given_arguments(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """By service: the flags, as typed for it, of the suite's settings that were given in ``add_settings(..., has_defaults=False)``."""
    by_service: dict[str, list[str]] = {service: [] for service in SERVICES}
    for known in suite_settings():
        value = getattr(arguments, known.setting.attribute, None)
        if value is None:
            continue
        for service in known.services:
            flag = f"--{known.name_there}"
            by_service[service] += [flag] if known.setting.is_switch else [flag, _in_words(value)]
    return {service: tuple(words) for service, words in by_service.items()}
