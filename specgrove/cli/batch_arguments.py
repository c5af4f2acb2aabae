"""The grammar of ``specgrove batch``. Used by ``specgrove.cli.arguments``; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.cli.option_groups import MORE_SETTINGS, add_output_options, add_suite_options
from specgrove.settings import at_least, path, typed


def add_batch(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove batch``."""
    command = commands.add_parser(
        "batch",
        usage="specgrove batch -i IN.jsonl -o OUT.jsonl [OPTION ...]",
        help="answer a file of requests in the form of OpenAI's batch API",
        description="Answers each line of a file: custom_id, method, url and body. A run that was stopped is gone on with by the same "
        "command. --address is that of a suite's HTTP API.",
        epilog=MORE_SETTINGS,
    )
    command.add_argument("-i", "--input", type=typed(path), required=True, metavar="FILE", help="requests, one a line")
    command.add_argument(
        "-o",
        "--output",
        type=typed(path),
        required=True,
        metavar="FILE",
        help="answers, one a line, in the order of the requests",
    )
    command.add_argument(
        "--at-once",
        type=typed(at_least(1)),
        default=32,
        metavar="N",
        help="requests under way at a time (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON with the numbers at the end")
    add_output_options(command)
    add_suite_options(command, is_http=True)
