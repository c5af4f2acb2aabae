"""API keys: who may ask. Read by the router from a file, and by commands before they load models.

Invariant: what is kept, shown or logged of a key is its name and its hash at most.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from specgrove.errors import UnauthorizedError
from specgrove.serving.key_file import ApiKey, hash_of, read_key_file
from specgrove.serving.watched_files import WatchedFiles

logger = logging.getLogger(__name__)

ASKING_KEY: ContextVar[ApiKey | None] = ContextVar("asking_key", default=None)
"""The key of the call that this task serves. None where none was asked for."""

KEY_NAME_METADATA = "specgrove-key-name"
"""With it a client at a server's local address says for whose key it asks. It is believed there alone."""

_SCHEME = "bearer"


@dataclass(frozen=True, slots=True)
class _Known:
    """One reading of the keys."""

    by_hash: Mapping[bytes, ApiKey]
    by_name: Mapping[str, ApiKey]

    @classmethod
    def of(cls, keys: Sequence[ApiKey]) -> _Known:
        """Of a name, its first key: all of them have the same limits."""
        return cls({key.sha256: key for key in keys}, {key.name: key for key in reversed(keys)})


class ApiKeys:
    """The keys that a server takes, by gRPC and HTTP alike, as ``authorization: Bearer KEY``."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        known = _Known.of(keys)
        self._newest: Callable[[], _Known] = lambda: known

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> ApiKeys:
        """Keys without limits; they are named ``key-1`` and so on."""
        return cls([ApiKey(f"key-{number}", hash_of(text)) for number, text in enumerate(texts, 1)])

    @classmethod
    def in_file(cls, path: Path) -> ApiKeys:
        """Those that are in the file at the moment of each question. Raises ``ValueError`` as ``read_key_file``."""

        generations = itertools.count(1)

        def read() -> _Known:
            keys = read_key_file(path)
            if num_clear := sum(key.is_clear for key in keys):
                logger.warning(
                    "%s: %d of %d keys are in clear; `specgrove key --hash %s` writes the file with their hashes",
                    path, num_clear, len(keys), path,
                )  # fmt: skip
            generation = next(generations)
            return _Known.of([dataclasses.replace(key, generation=generation) for key in keys])

        found = cls(())
        found._newest = WatchedFiles([path], read).newest
        return found

    def key_of(self, authorization: str | None) -> ApiKey:
        """The key that a request carries. Raises ``UnauthorizedError``, which says what is wrong.

        Found by its hash: in the time that takes, nobody can read anything who can't choose what SHA-256 makes of a guess.
        """
        if not authorization:
            raise UnauthorizedError("an API key is needed: send 'authorization: Bearer KEY'")
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != _SCHEME:
            raise UnauthorizedError("an API key is needed in the form 'authorization: Bearer KEY'")
        if (found := self._newest().by_hash.get(hash_of(given.strip()))) is None:
            raise UnauthorizedError("the API key is none that is known here")
        return found

    def named(self, name: str) -> ApiKey:
        """A key of this name, for whoever is believed to ask for its holder. Raises ``UnauthorizedError``."""
        if (found := self._newest().by_name.get(name)) is None:
            raise UnauthorizedError(f"no API key is named {name!r}")
        return found
