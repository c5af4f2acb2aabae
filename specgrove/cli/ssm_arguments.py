"""The grammar of ``specgrove ssm``. Used by ``specgrove.cli.arguments``; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.config import DEFAULT_LLM
from specgrove.machine.cpus import available_cpus
from specgrove.settings import CACHE_DIR, add_settings, at_least, path, typed

_DATA = "prompts: a .json file (a list of texts), a .txt file (a prompt a line), or a folder of them"


def add_ssm(commands: argparse._SubParsersAction[Any]) -> None:
    """``specgrove ssm train`` and ``specgrove ssm evaluate``."""
    command = commands.add_parser(
        "ssm", help="train an SSM for your LLM, and measure it", description="Makes small models that draft for an LLM."
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="{train,evaluate}")
    _add_train(actions)
    _add_evaluate(actions)


def _add_train(actions: argparse._SubParsersAction[Any]) -> None:
    train = actions.add_parser(
        "train",
        help="record what the LLM says, and train an SSM on it",
        description="Records dialogues of the LLM, trains an SSM on them, measures it, and writes its folder with a model card. A run that "
        "was stopped is gone on with by the same command.",
    )
    train.add_argument(
        "--kind",
        choices=("head", "decoder"),
        default="head",
        help="head: one layer that reads the LLM's hidden states; decoder: a small model with tokens in and out (default: %(default)s)",
    )
    train.add_argument(
        "--outputs",
        type=typed(path),
        nargs="+",
        default=[],
        metavar="FILE",
        help="outputs.npz of earlier runs with this LLM: their dialogues are read instead of generated, and count among --num-tokens",
    )
    train.add_argument(
        "--start",
        type=typed(path),
        metavar="DIR",
        help="head: an SSM of this tool whose training goes on (default: a start in closed form)",
    )
    train.add_argument("--out", type=typed(path), required=True, metavar="DIR", help="the SSM's folder")
    train.add_argument(
        "--num-tokens", type=typed(at_least(1)), default=1_000_000, metavar="N", help="to record (default: %(default)s)"
    )
    train.add_argument(
        "--boost",
        type=typed(at_least(1)),
        default=1,
        metavar="N",
        help="train N heads, each where those before it fail, into DIR, DIR-2 and so on (default: %(default)s)",
    )
    train.add_argument(
        "--passes",
        type=typed(_positive),
        default=3.0,
        metavar="X",
        help="head: over the recordings (default: %(default)s)",
    )
    train.add_argument(
        "--hidden-layers",
        type=typed(at_least(0)),
        nargs="+",
        default=[],
        metavar="LAYER",
        help="head: whose inputs are read; the number of layers is the last state (default: the middle, four fifths, the last state)",
    )
    train.add_argument(
        "--minutes",
        type=typed(_positive),
        default=20.0,
        metavar="X",
        help="decoder: of training (default: %(default)s)",
    )
    for name, default in (
        ("draft-vocab-size", 12288),
        ("hidden-size", 320),
        ("intermediate-size", 896),
        ("num-layers", 2),
    ):
        train.add_argument(
            f"--{name}", type=typed(at_least(1)), default=default, metavar="N", help="decoder: default %(default)s"
        )
    _add_common(train, data="the LLM invents all")


def _add_evaluate(actions: argparse._SubParsersAction[Any]) -> None:
    evaluate = actions.add_parser(
        "evaluate",
        help="how often an SSM guesses right, and tokens per verification",
        description="Reads the LLM's greedy answers to held-out prompts, which are recorded once.",
    )
    evaluate.add_argument("--ssm", type=typed(path), required=True, metavar="DIR", help="what `ssm train` wrote")
    evaluate.add_argument(
        "--num-prompts", type=typed(at_least(1)), default=60, metavar="N", help="the first N (default: %(default)s)"
    )
    _add_common(evaluate, data="some of our own, which are not trained on")


def _add_common(command: argparse.ArgumentParser, data: str) -> None:
    """What both take; ``data`` says what they do without files."""
    command.add_argument(
        "--llm", default=DEFAULT_LLM, metavar="ID", help="what `serve --llm` takes (default: %(default)s)"
    )
    command.add_argument(
        "--data", type=typed(path), nargs="+", default=[], metavar="FILE", help=f"{_DATA} (default: {data})"
    )
    command.add_argument(
        "--answer-len",
        type=typed(at_least(2)),
        default=128,
        metavar="N",
        help="tokens of a held-out answer (default: %(default)s)",
    )
    command.add_argument(
        "--work-dir",
        type=typed(path),
        metavar="DIR",
        help="recordings and checkpoints of this LLM (default: below --cache-dir)",
    )
    command.add_argument(
        "--workers", type=typed(at_least(1)), default=available_cpus(), metavar="N", help="cores (default: all)"
    )
    add_settings(command, [CACHE_DIR])


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError(f"must be above 0, got {text!r}")
    return number
