"""API keys: who may ask. Read by the router from a file, and by commands before they load models.

Invariant: what is kept, shown or logged of a key is its name and its hash at most.
"""

from __future__ import annotations

import dataclasses
import hmac
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
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


class ApiKeys:
    """The keys that a server takes, by gRPC and HTTP alike, as ``authorization: Bearer KEY``."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._newest: Callable[[], Sequence[ApiKey]] = lambda: keys

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> ApiKeys:
        """Keys without limits; they are named ``key-1`` and so on."""
        return cls([ApiKey(f"key-{number}", hash_of(text)) for number, text in enumerate(texts, 1)])

    @classmethod
    def in_file(cls, path: Path) -> ApiKeys:
        """Those that are in the file at the moment of each question. Raises ``ValueError`` as ``read_key_file``."""

        generations = itertools.count(1)

        def read() -> tuple[ApiKey, ...]:
            keys = read_key_file(path)
            if num_clear := sum(key.is_clear for key in keys):
                logger.warning(
                    "%s: %d of %d keys are in clear; `specgrove key --hash %s` writes the file with their hashes",
                    path, num_clear, len(keys), path,
                )  # fmt: skip
            generation = next(generations)
            return tuple(dataclasses.replace(key, generation=generation) for key in keys)

        found = cls(())
        found._newest = WatchedFiles([path], read).newest
        return found

    def key_of(self, authorization: str | None) -> ApiKey:
        """The key that a request carries. All keys are compared, in a time that does not tell what is right.

        Raises ``UnauthorizedError``, which says what is wrong.
        """
        if not authorization:
            raise UnauthorizedError("an API key is needed: send 'authorization: Bearer KEY'")
        scheme, _, given = authorization.partition(" ")
        # Of one length for all, so that the comparison doesn't tell a key's.
        given_hash, found = hash_of(given.strip()), None
        for key in self._newest():
            if hmac.compare_digest(given_hash, key.sha256):
                found = key
        if scheme.lower() != _SCHEME:
            raise UnauthorizedError("an API key is needed in the form 'authorization: Bearer KEY'")
        if found is None:
            raise UnauthorizedError("the API key is none that is known here")
        return found

    def named(self, name: str) -> ApiKey:
        """A key of this name, for whoever is believed to ask for its holder. Raises ``UnauthorizedError``."""
        for key in self._newest():
            if key.name == name:
                return key
        raise UnauthorizedError(f"no API key is named {name!r}")
