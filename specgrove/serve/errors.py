"""What the Python API raises besides the clients' errors. All are ``SpecGroveError``s."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from specgrove.errors import InvalidRequestError, SpecGroveError


class ConfigurationError(SpecGroveError, ValueError):
    """A value that was given is wrong: the text names it, and what would be right. Nothing was started for it."""


class StartError(SpecGroveError):
    """The services did not start, or something ended them for good."""


@contextlib.contextmanager
def told_as_configuration() -> Iterator[None]:
    """What deeper modules find wrong with the caller's values becomes a ``ConfigurationError``."""
    try:
        yield
    except ConfigurationError:
        raise
    except (InvalidRequestError, OSError, ValueError) as error:
        raise ConfigurationError(" ".join(str(error).split())) from error
