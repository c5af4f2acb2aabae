"""The Python client of the router: ``Client``, ``AsyncClient``, and the plain values that they take and give.

The values are imported without gRPC, which takes a while: it comes with the first use of a client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specgrove.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("specgrove.client.clients"), name)
