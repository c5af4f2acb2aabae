"""What the Python API raises besides the clients' errors. All are ``SpecGroveError``s."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from specgrove.errors import InvalidRequestError, SpecGroveError

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9])")
# Of settings that are not of ``init``, or have another name there.
_NAMES = {
    "max-model-len": "max_seq_length",
    "max-chunk-tokens": "max_tokens_per_batch",
    "max-requests": "max_requests_per_batch",
    "tensor-parallel": "tensor_parallelism_degree",
    "pipeline-parallel": "pipeline_parallelism_degree",
}


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
        raise ConfigurationError(in_python(" ".join(str(error).split()))) from error


def in_python(text: str) -> str:
    """The services and ``specgrove serve`` name their flags; callers know the settings by other names."""

    def named(found: re.Match[str]) -> str:
        return _NAMES.get(found[1]) or found[1].replace(".", "_").replace("-", "_")

    return _FLAG.sub(named, text)
