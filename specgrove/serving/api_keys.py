"""API keys: who may ask. Read by the router from a file, and by commands before they load models.

Invariant: what is kept, shown or logged of a key is its digest at most.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from pathlib import Path

from specgrove.serving.watched_files import WatchedFiles

_SCHEME = "bearer"


def read_keys(path: Path) -> tuple[str, ...]:
    """A key per line; empty lines and those that begin with # are none. Raises ``ValueError`` where there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: keys must be printable ASCII characters without spaces") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path} holds no key; write one a line")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ValueError(f"{path}: keys must be printable ASCII characters without spaces")
    return keys


class ApiKeys:
    """The keys that a server takes, by gRPC and HTTP alike, as ``authorization: Bearer KEY``."""

    def __init__(self, keys: Sequence[str]) -> None:
        digests = _digests(keys)
        self._digests: Callable[[], Sequence[bytes]] = lambda: digests

    @classmethod
    def in_file(cls, path: Path) -> ApiKeys:
        """Those that are in the file at the moment of each question. Raises ``ValueError`` as ``read_keys``."""
        found = cls(())
        found._digests = WatchedFiles([path], lambda: _digests(read_keys(path))).newest
        return found

    def problem(self, authorization: str | None) -> str | None:
        """What is wrong with what a request carries, or ``None``. All keys are compared, in a time that doesn't tell what is right."""
        if not authorization:
            return "an API key is needed: send 'authorization: Bearer KEY'"
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        is_known = [hmac.compare_digest(digest, known) for known in self._digests()]
        if scheme.lower() != _SCHEME:
            return "an API key is needed in the form 'authorization: Bearer KEY'"
        return None if any(is_known) else "the API key is none that is known here"


def _digests(keys: Sequence[str]) -> list[bytes]:
    return [_digest(key) for key in keys]


def _digest(key: str) -> bytes:
    # Of one length for all, so that the comparison doesn't tell a key's.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
