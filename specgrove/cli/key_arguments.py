"""The grammar of ``specgrove key``. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from specgrove.settings import path, typed, unsigned


def add_key(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "key",
        usage="specgrove key NAME [OPTION ...]\n       specgrove key --hash FILE",
        help="make an API key, and its line for the router's --api-key-file",
        description="Makes an API key. Standard output has its line for the router's --api-key-file, which holds the key's hash. The key "
        "itself is shown once, on standard error, or written to a file.",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="whose key it is; metrics and refusals have it")
    for flag, what in (
        ("--max-requests", "requests that may be under way at once with it"),
        ("--tokens-per-minute", "tokens of prompts and outputs in a minute"),
    ):
        command.add_argument(
            flag, type=typed(unsigned(48, minimum=1)), metavar="N", help=f"{what} (default: any number)"
        )
    command.add_argument(
        "--key-file",
        type=typed(path),
        metavar="FILE",
        help="write the key to this new file, which clients take as --api-key-file",
    )
    command.add_argument(
        "--hash",
        type=typed(path),
        metavar="FILE",
        help="instead: print a file of keys with the hashes of those that are in clear in it",
    )
