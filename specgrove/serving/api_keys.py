"""The file of API keys, read by the router, and by commands before they load models."""

from __future__ import annotations

from pathlib import Path


def read_keys(path: Path) -> tuple[str, ...]:
    """A key per line; empty lines and those that begin with # are none. Raises ``ValueError`` where there is none, and ``OSError``."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path} holds no key; write one a line")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ValueError(f"{path}: keys must be printable ASCII characters without spaces")
    return keys
