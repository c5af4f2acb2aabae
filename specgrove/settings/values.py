"""Kinds of values: how each is typed, what is allowed, and how editors are told. Reading raises ``ValueError`` with what would be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from specgrove.addresses import (
    checked_address,
    checked_service_address,
    checked_socket_address,
    checked_tcp_address,
)
from specgrove.machine.folders import typed_path

_MAX_TIME = 1e9  # of any unit


def in_words(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(in_words, value))
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return str(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. Called with a text it gives the value.

    ``allowed`` says in words which there are, with their unit. ``schema`` says so in JSON schema, of the value in a YAML file.
    """

    read: Callable[[str], Any]
    allowed: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    write: Callable[[Any], str] = in_words

    def __call__(self, text: str) -> Any:
        """The value."""
        return self.read(text)


def at_least(minimum: int) -> Kind:
    """Whole numbers from ``minimum`` on."""
    allowed = f"a whole number, {minimum} or more"

    def read(text: str) -> int:
        # Long before Python refuses to read it.
        if not text.isdecimal() or len(text) > 30 or int(text) < minimum:
            raise ValueError(f"must be {allowed}, got {text!r}")
        return int(text)

    return Kind(read, allowed, {"type": "integer", "minimum": minimum})


def between(minimum: int, maximum: int) -> Kind:
    """Whole numbers from ``minimum`` to ``maximum``."""
    allowed = f"a whole number from {minimum} to {maximum}"

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 30 or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be {allowed}, got {text!r}")
        return int(text)

    return Kind(read, allowed, {"type": "integer", "minimum": minimum, "maximum": maximum})


def unsigned(num_bits: int, *, minimum: int = 0) -> Kind:
    """Whole numbers from ``minimum`` on that a field of so many bits holds."""
    read_any, maximum = at_least(minimum), 2**num_bits - 1

    def read(text: str) -> int:
        value: int = read_any(text)
        if value > maximum:
            raise ValueError(f"must be at most {maximum}, got {text}")
        return value

    schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return Kind(read, f"a whole number, {minimum} to {maximum}", schema)


def _time(unit: str, *, is_zero_right: bool) -> Kind:
    allowed = f"a number of {unit}, 0 or more" if is_zero_right else f"a number of {unit} above 0"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 <= value < _MAX_TIME) or (value == 0 and not is_zero_right):
            most = f" and below {_MAX_TIME:.0f}" if value >= _MAX_TIME else ""
            raise ValueError(f"must be {allowed}{most}, got {text!r}")
        return value

    return Kind(read, allowed, {"type": "number", "minimum" if is_zero_right else "exclusiveMinimum": 0})


seconds = _time("seconds", is_zero_right=True)
positive_seconds = _time("seconds", is_zero_right=False)
milliseconds = _time("milliseconds", is_zero_right=True)


def _read_bytes(text: str) -> int:
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


def _bytes_in_words(value: int) -> str:
    """In the largest unit that divides it."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


parse_bytes = Kind(
    _read_bytes, "an amount of memory: 2GiB, 500MB or bytes", {"type": ["integer", "string"]}, _bytes_in_words
)


def bytes_up_to(maximum: int) -> Kind:
    """Amounts that are not more."""

    def read(text: str) -> int:
        if (value := _read_bytes(text)) > maximum:
            raise ValueError(f"must be at most {_bytes_in_words(maximum)}, got {text}")
        return value

    return Kind(
        read, f"a size up to {_bytes_in_words(maximum)}: 1MiB, 500kB or bytes", parse_bytes.schema, _bytes_in_words
    )


def _read_stages(text: str) -> tuple[int, ...]:
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(f"must be a number of stages (2), or the stages' numbers of layers (10,12,8), got {text!r}")
    return tuple(numbers)


stages = Kind(
    _read_stages,
    "a number of stages, or each stage's number of layers",
    {"type": ["integer", "string", "array"], "items": {"type": "integer", "minimum": 1}},
)
"""``(2,)``: two pipeline stages; ``(10, 12, 8)``: three, with these numbers of layers."""


def _read_texts(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError(f"must be a text, or several with commas between, got {text!r}")
    return found


texts = Kind(_read_texts, "one or several", {"type": ["string", "array"], "items": {"type": "string"}})
"""Several, with commas between."""


def _read_share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, got {text!r}")
    return value


share = Kind(_read_share, "a number from 0 to 1", {"type": "number", "minimum": 0, "maximum": 1})


def _read_url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2]:
        raise ValueError(f"must be http://HOST:PORT or https://HOST:PORT, got {text!r}")
    return text


url = Kind(_read_url, "http://HOST:PORT or https://HOST:PORT")

path = Kind(typed_path, "a path; ~ is the home folder")
address = Kind(checked_address, "HOST:PORT or unix:/path")
http_address = Kind(checked_socket_address, "HOST:PORT or unix:/path")
service_address = Kind(checked_service_address, "HOST:PORT, dns:NAME:PORT or unix:/path")
tcp_address = Kind(checked_tcp_address, "HOST:PORT")
