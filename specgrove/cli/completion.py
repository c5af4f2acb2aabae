"""``specgrove completion``: what a shell is to run, so that Tab completes commands and options (argcomplete)."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    print(shellcode(["specgrove"], shell=arguments.shell))
    return 0
