"""``specgrove key``: makes an API key and prints its line for the router's file of keys."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from specgrove.serving.key_file import ApiKey, check_name, hash_of, hashed_lines, new_key

_OF_A_NEW_KEY = ("name", "max_requests", "tokens_per_minute", "key_file")


def run(arguments: argparse.Namespace) -> int:
    """The line goes to stdout; the key to stderr, or into its file."""
    if arguments.hash is not None:
        if any(getattr(arguments, name) is not None for name in _OF_A_NEW_KEY):
            raise ValueError("--hash FILE is given alone: it makes no new key")
        # All of it, or nothing: who prints into a file is to have no half of it.
        print("\n".join(hashed_lines(arguments.hash)))
        return 0
    if arguments.name is None:
        raise ValueError("give the new key a NAME, or --hash FILE")
    key = new_key()
    line = ApiKey(check_name(arguments.name), hash_of(key), arguments.max_requests, arguments.tokens_per_minute).line
    if arguments.key_file is None:
        print(f"the key of {arguments.name}, which is shown this once: {key}", file=sys.stderr)
    else:
        _write(arguments.key_file, key)
    print(line)
    return 0


def _write(path: Path, key: str) -> None:
    """For its owner's eyes. Raises ``OSError``, also where there is such a file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
