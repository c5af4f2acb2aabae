"""Files of API keys, and keys as ``specgrove key`` makes them. Used by ``api_keys`` and by commands.

    alice sha256:66a045b452102c59d840ec097d59d9467e13a3f34f6494e539ffd32c1bb35f18 max-requests=4 tokens-per-minute=20000

A key has 256 random bits, so one SHA-256 of it is enough: nobody can try so many. A slow hash is for passwords, which can be guessed; here
it would let whoever has no key take the router's time. Invariant: no error shows what may be a key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_NUM_KEYS = 10_000
"""Of a file: a router reads it anew between two requests, at once for all of them, in some tens of milliseconds."""

MIN_HASHED_LEN = 20
"""Characters of a key. What is shorter may be a word, which is found by trying."""

_NUM_RANDOM_BYTES = 32
# Tools that look for secrets in repositories go by it.
_PREFIX = "specgrove-"
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_KEY = re.compile(_PREFIX + "[A-Za-z0-9_-]{43}")
_LIMITS = ("max-requests", "tokens-per-minute")
_FORM = "NAME sha256:HASH [max-requests=N] [tokens-per-minute=N]"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the router knows it, with the limits of its name: requests at once, and tokens of prompts and outputs a minute."""

    name: str
    sha256: bytes = field(repr=False)
    max_num_requests: int | None = None
    tokens_per_minute: int | None = None
    is_clear: bool = False
    """Whether it stands in the file itself."""
    generation: int = field(default=0, compare=False)
    """How often the file had been read when this was read of it. A request may still hold a key of an older file."""

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """What all keys of one name have alike."""
        return self.max_num_requests, self.tokens_per_minute

    @property
    def line(self) -> str:
        """As it stands in a file."""
        limits = (f" {name}={value}" for name, value in zip(_LIMITS, self.limits, strict=True) if value is not None)
        return f"{self.name} sha256:{self.sha256.hex()}{''.join(limits)}"


def hash_of(key: str) -> bytes:
    """Its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)


def check_name(name: str) -> str:
    """The name. Raises ``ValueError``, which shows it only where it is too short for a key."""
    if _KEY.fullmatch(name) is not None:
        raise ValueError("a key's name must not be a key: it is shown in logs and metrics; name who has the key")
    if _NAME.fullmatch(name) is None:
        got = f", got {name!r}" if len(name) < MIN_HASHED_LEN else ""
        raise ValueError(f"a key's name must be 1 to 64 letters, digits or _ . @ -{got}")
    return name


def read_key_file(path: Path) -> tuple[ApiKey, ...]:
    """A key a line, as a hash or in clear; empty lines and those that begin with # are none.

    Keys in clear are named by their lines. Raises ``ValueError``, also where there is no key.
    """
    lines = _lines(path)
    if len(lines) > MAX_NUM_KEYS:
        raise ValueError(f"{path} holds {len(lines)} keys; a router takes {MAX_NUM_KEYS} at most")
    keys = tuple(_key_in(path, number, line) for number, line in lines)
    if not keys:
        raise ValueError(f"{path} holds no key; `specgrove key NAME` makes one, and its line for this file")
    limits: dict[str, tuple[int | None, int | None]] = {}
    for key in keys:
        if limits.setdefault(key.name, key.limits) != key.limits:
            raise ValueError(
                f"{path}: lines of one name share its limits, but those of {key.name!r} have different ones"
            )
    return keys


def first_key(path: Path) -> str:
    """The key that a client sends: the first one of a file with keys in clear. Raises ``ValueError``."""
    for number, line in _lines(path):
        if not _key_in(path, number, line).is_clear:
            raise ValueError(
                f"{path}, line {number}: is a key's hash, for a router; a client needs a file with the key itself "
                "(`specgrove key NAME --key-file FILE` writes one)"
            )
        return line
    raise ValueError(f"{path} holds no key; write it into the first line")


def hashed_lines(path: Path) -> Iterator[str]:
    """The file's lines, with hashes where keys stood in clear. Raises ``ValueError``, also for keys that are too short."""
    keys = dict(_lines(path))
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if (stripped := keys.get(number)) is None:
            yield line
            continue
        key = _key_in(path, number, stripped)
        if key.is_clear and len(stripped) < MIN_HASHED_LEN:
            raise ValueError(
                f"{path}, line {number}: a key of less than {MIN_HASHED_LEN} characters can be found out from its hash: "
                "make a new one with `specgrove key NAME`"
            )
        yield key.line


def _lines(path: Path) -> Sequence[tuple[int, str]]:
    """Those with keys, by their numbers."""
    stripped = ((number, line.strip()) for number, line in enumerate(_text_of(path).splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: keys must be printable ASCII characters") from error


def _key_in(path: Path, number: int, line: str) -> ApiKey:
    where = f"{path}, line {number}:"
    if not (line.isascii() and line.isprintable()):
        raise ValueError(f"{where} keys must be printable ASCII characters")
    words = line.split()
    if len(words) == 1 and not line.startswith("sha256:"):
        return ApiKey(f"line-{number}", hash_of(line), is_clear=True)
    found = _HASH.fullmatch(words[1]) if len(words) > 1 and _NAME.fullmatch(words[0]) else None
    if found is None:
        raise ValueError(f"{where} must be {_FORM}, or one key alone, without spaces")
    if _KEY.fullmatch(words[0]) is not None:
        raise ValueError(f"{where} begins with a key; it must begin with the NAME of who has the key")
    limits = _limits_in(where, words[2:])
    return ApiKey(words[0], bytes.fromhex(found[1]), limits.get(_LIMITS[0]), limits.get(_LIMITS[1]))


def _limits_in(where: str, words: Sequence[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _LIMITS:
            raise ValueError(f"{where} what follows a hash must be {' or '.join(f'{limit}=N' for limit in _LIMITS)}")
        if not (value.isdecimal() and len(value) < 16 and int(value) > 0):
            raise ValueError(f"{where} {name} must be a whole number, 1 or more")
        if name in limits:
            raise ValueError(f"{where} {name} is there twice")
        limits[name] = int(value)
    return limits
