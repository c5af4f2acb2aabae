"""The grammar of ``specgrove doctor`` and ``completion``. Used by ``specgrove.cli.arguments``; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.cli.option_groups import add_suite_options

SHELLS = ("bash", "zsh", "fish")


def add_doctor(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove doctor``."""
    command = commands.add_parser(
        "doctor",
        usage="specgrove doctor [OPTION ...]",
        help="look at this machine, and whether a suite would run",
        description="Looks at the machine, the models and the addresses that `specgrove serve` with the same options would use, "
        "or with --address at a running suite. Fetches nothing. Exit code 1 where something would keep a suite from running.",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    command.add_argument("--quick", action="store_true", help="measure nothing: memory's speed takes a second")
    command.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    command.set_defaults(verbose=False)
    add_suite_options(command, without="this machine is looked at, and nothing is started")


def add_completion(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove completion``."""
    command = commands.add_parser(
        "completion",
        help="print what makes a shell complete this command",
        description='For bash: eval "$(specgrove completion bash)" in ~/.bashrc; for zsh the same in ~/.zshrc, after compinit; '
        "for fish: specgrove completion fish > ~/.config/fish/completions/specgrove.fish",
    )
    command.add_argument("shell", choices=SHELLS)
