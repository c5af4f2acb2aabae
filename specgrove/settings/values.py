"""Texts to values: each raises ``ValueError`` with what would be right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def at_least(minimum: int) -> Callable[[str], int]:
    """Whole numbers from ``minimum`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise ValueError(f"must be a whole number, {minimum} or more, got {text!r}")
        return int(text)

    return read


def unsigned(num_bits: int, *, minimum: int = 0) -> Callable[[str], int]:
    """Whole numbers from ``minimum`` on that a field of so many bits holds."""
    read_any = at_least(minimum)

    def read(text: str) -> int:
        value = read_any(text)
        if value.bit_length() > num_bits:
            raise ValueError(f"must be at most {2**num_bits - 1}, got {text}")
        return value

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


def texts(text: str) -> tuple[str, ...]:
    """Several, with commas between."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError(f"must be a text, or several with commas between, got {text!r}")
    return found


def path(text: str) -> Path:
    """``~`` is the home folder."""
    return Path(text).expanduser()
