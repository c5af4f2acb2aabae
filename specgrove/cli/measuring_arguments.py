"""The grammar of the commands that measure on prompts of one's own. Used by ``specgrove.cli.arguments``; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.cli.option_groups import (
    MORE_SETTINGS,
    add_choice_options,
    add_output_options,
    add_suite_options,
)
from specgrove.settings import at_least, path, typed


def add_bench(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove bench``."""
    command = commands.add_parser(
        "bench",
        usage="specgrove bench --prompts FILE [OPTION ...]",
        help="measure on your own prompts whether speculation pays, and with which SSMs",
        description="Decodes your prompts without speculation, with all SSMs and with each alone, by turns, and says which SSMs to use.",
        epilog=MORE_SETTINGS,
    )
    _add_prompt_options(command)
    command.add_argument(
        "--rounds",
        type=typed(at_least(1)),
        default=8,
        metavar="N",
        help="turns of each way at most; each takes prompts of its own (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    add_output_options(command)
    add_choice_options(command, default_max_tokens=128)
    add_suite_options(command)


def add_eval(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove eval``."""
    command = commands.add_parser(
        "eval",
        usage="specgrove eval --prompts FILE [FILE ...] [OPTION ...]",
        help="latency per token and verified tokens per step, by prompt set",
        description="Answers all prompts of each file, and reports what the SpecInfer paper reports, by file.",
        epilog=MORE_SETTINGS,
    )
    _add_prompt_options(command)
    command.add_argument(
        "--incremental", action="store_true", help="decode without speculation too, by turns: twice the time"
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    command.add_argument(
        "--chart", type=typed(path), metavar="FILE", help="write a chart, .png or .svg; needs matplotlib"
    )
    add_output_options(command)
    add_choice_options(command, default_max_tokens=128)
    add_suite_options(command)


def _add_prompt_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--prompts",
        type=typed(path),
        nargs="+",
        required=True,
        metavar="FILE",
        help="a JSON list of texts, as FlexFlow Serve's prompt files",
    )
    command.add_argument(
        "--num-prompts", type=typed(at_least(1)), metavar="N", help="the first N of each file (default: all)"
    )
    command.add_argument(
        "--at-once",
        type=typed(at_least(1)),
        default=1,
        metavar="N",
        help="requests under way at a time (default: %(default)s)",
    )
    command.add_argument("--raw", action="store_true", help="continue the prompts as they are, without a chat template")
