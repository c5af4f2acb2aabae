"""The command line's grammar. Imports nothing heavy, so that ``--help`` is quick; ranges are checked by the router."""

from __future__ import annotations

import argparse
import importlib.metadata

from specgrove.addresses import checked_address
from specgrove.config import (
    DEFAULT_ADDRESS,
    DEFAULT_DTYPE,
    DEFAULT_LLM,
    DEFAULT_SSMS,
    DTYPES,
    QUANTIZATIONS,
)
from specgrove.settings import CACHE_DIR, DRAIN, add_settings, at_least, positive_seconds, suite_settings, typed


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` names the one chosen."""
    top = argparse.ArgumentParser(
        prog="specgrove",
        description="LLM serving with low latency by speculative inference with token-tree verification.",
    )
    top.add_argument("--version", action="version", version=f"specgrove {_version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_generate(commands)
    _add_chat(commands)
    _add_models(commands)
    _add_quantize(commands)
    _add_demo(commands)
    return top


def _version() -> str:
    try:
        return importlib.metadata.version("specgrove")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0.0.0+checkout"


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "serve",
        help="start the three services and keep them running",
        description="Starts the LLM service, the SSM service and the router, and keeps them running until Ctrl-C or SIGTERM.",
    )
    _add_model_options(command)
    command.add_argument(
        "--grpc-address",
        type=typed(checked_address),
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="where the router listens (default: %(default)s)",
    )


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "generate",
        help="generate text from one prompt",
        description="Generates text from one prompt, with a running suite (--address) or one that is started for it.",
    )
    command.add_argument("prompt", help="the prompt; - reads it from standard input")
    _add_suite_options(command)
    _add_sampling_options(command, default_max_tokens=256)
    command.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    command.add_argument(
        "--json", action="store_true", help="print one line of JSON with text, token ids and statistics"
    )


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "chat",
        help="talk with the model",
        description="Talks with the model over several turns. /reset forgets the conversation, /exit ends it.",
    )
    command.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    _add_suite_options(command)
    _add_sampling_options(command, default_max_tokens=512)


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "models", help="list, inspect, download and convert models", description="Manages models on this machine."
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="what is in our cache and in the Hugging Face hub's")
    info = actions.add_parser("info", help="what a model is, and whether it can be served")
    info.add_argument("model", metavar="ID_OR_FOLDER", help=f"a Hugging Face id, folder, .gguf file, or {DEFAULT_LLM}")
    info.add_argument("--json", action="store_true", help="print one line of JSON")
    download = actions.add_parser("download", help="fetch a model, so that later starts need no network")
    download.add_argument("model", metavar="ID", help=f"a Hugging Face id, or {DEFAULT_LLM}")
    for action in (listing, info, download):
        add_settings(action, [CACHE_DIR])
    convert = actions.add_parser(
        "convert",
        help="write a model folder with safetensors from a GGUF file or from pickle files",
        description="Writes safetensors from a .gguf file of any type, or from a folder with torch's *.bin files.",
    )
    convert.add_argument(
        "model", metavar="FILE_OR_FOLDER", help="a .gguf file, or a folder with it or with *.bin files"
    )
    convert.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    convert.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are; dequantised: bfloat16)")


def _add_quantize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "quantize",
        help="write a model folder with weights of 8 or 4 bits",
        description="Quantises all linears of a model, the head to 8 bits; embeddings and norms stay as they are.",
    )
    command.add_argument("model", metavar="MODEL", help=f"a Hugging Face id, folder, or {DEFAULT_LLM}")
    command.add_argument("--bits", type=int, choices=(4, 8), required=True, help="of the linears' weights")
    command.add_argument(
        "--group-size", type=int, metavar="N", help="inputs that share a scale, for 4 bits (default: 32)"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    add_settings(command, [CACHE_DIR])


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "demo",
        help="show speculative inference at work",
        description="Starts the suite, streams an answer with the drafted tokens in colour, and compares with incremental decoding.",
    )
    command.add_argument("question", nargs="?", help="what to ask")
    command.add_argument("--max-tokens", type=int, default=200, metavar="N", help="default: %(default)s")
    _add_model_options(command)


def _add_model_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("models")
    group.add_argument(
        "--llm",
        metavar="ID_OR_FOLDER",
        help=f"the large model: a Hugging Face id, folder or .gguf file (default: {DEFAULT_LLM})",
    )
    group.add_argument(
        "--ssm",
        action="append",
        metavar="SSM",
        help=f"a small speculative model, repeatable (default: {' and '.join(DEFAULT_SSMS)})",
    )
    group.add_argument("--dtype", choices=DTYPES, help=f"what to compute in (default: {DEFAULT_DTYPE})")
    group.add_argument(
        "--quantization", choices=QUANTIZATIONS, help="of the LLM's weights: made once and kept (default: none)"
    )
    group.add_argument(
        "--llm-replicas", type=typed(at_least(1)), metavar="N", help="LLM services to start (default: 1)"
    )
    group.add_argument(
        "--threads",
        type=typed(at_least(1)),
        metavar="N",
        help="of the LLM service's replicas together, and of the SSM service (default: all of this process's processors)",
    )
    group.add_argument(
        "--start-timeout-s",
        type=typed(positive_seconds),
        metavar="S",
        help="time that all services may take to get ready (default: none while they load)",
    )
    add_settings(group, [DRAIN])
    settings = command.add_argument_group("settings of the services")
    add_settings(settings, [known.setting for known in suite_settings()], has_defaults=False)
    command.add_argument("--verbose", action="store_true", help="show the log of the services that are started here")


def _add_suite_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address", metavar="HOST:PORT", help="a running suite; without it one is started and stopped again"
    )
    _add_model_options(command)


def _add_sampling_options(command: argparse.ArgumentParser, default_max_tokens: int) -> None:
    group = command.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 = greedy (default)")
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the k most probable tokens; 0 = off")
    group.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="keep the top tokens of this mass; 1 = off"
    )
    group.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="keep tokens of this share of the best one; 0 = off"
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same output (default: random)")
    group.add_argument(
        "--max-tokens",
        type=int,
        default=default_max_tokens,
        metavar="N",
        help="output tokens at most; 0 = what the context holds (default: %(default)s)",
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    group.add_argument("--stop", action="append", metavar="TEXT", help="a text that ends the output, repeatable")
    group.add_argument("--no-speculation", action="store_true", help="decode incrementally; the output is the same")
