"""SpecGrove's version, as it is installed."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """``0+source`` where it runs from a checkout that is not installed."""
    try:
        return importlib.metadata.version("specgrove")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
