"""The grammar of ``specgrove top``. Used by ``specgrove.cli.arguments``; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.cli.option_groups import add_running_suite_options
from specgrove.settings import positive_seconds, typed


def add_top(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove top``."""
    command = commands.add_parser(
        "top",
        usage="specgrove top [OPTION ...]",
        help="watch what a running suite does",
        description="Shows requests, tokens per second, acceptance by SSM, KV slots and times of passes of a running suite, until Ctrl-C.",
    )
    command.add_argument("--once", action="store_true", help="look once, for one interval, and end")
    command.add_argument("--json", action="store_true", help="print a line of JSON each time: statistics and rates")
    command.add_argument(
        "--interval-s",
        type=typed(positive_seconds),
        default=2.0,
        metavar="S",
        help="time between two looks (default: %(default)s)",
    )
    add_running_suite_options(command)
