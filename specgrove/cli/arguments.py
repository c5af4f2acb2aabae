"""The command line's grammar. Imports nothing heavy, so that ``--help`` is quick. What can be checked without a model is checked
here, before anything starts."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable

from specgrove.addresses import checked_address
from specgrove.config import (
    DEFAULT_ADDRESS,
    DEFAULT_DTYPE,
    DEFAULT_LLM,
    DEFAULT_SSMS,
    DTYPES,
    QUANTIZATIONS,
)
from specgrove.ranges import MAX_STOP_TEXT_LEN, SAMPLING_RANGES
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
        usage="specgrove serve [OPTION ...]",
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
        usage="specgrove generate [OPTION ...] PROMPT",
        help="generate text from one prompt",
        description="Generates text from one prompt, with a running suite (--address) or one that is started for it.",
    )
    command.add_argument("prompt", nargs="+", help="the prompt, in quotes; - reads it from standard input")
    _add_suite_options(command)
    _add_sampling_options(command, default_max_tokens=256)
    command.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    command.add_argument(
        "--json", action="store_true", help="print one line of JSON with text, token ids and statistics"
    )


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "chat",
        usage="specgrove chat [OPTION ...]",
        help="talk with the model",
        description="Talks with the model over several turns. /help, in the conversation, says what there is.",
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
        usage="specgrove demo [OPTION ...] [QUESTION]",
        help="show speculative inference at work",
        description="Starts the suite, streams an answer with the drafted tokens in colour, and compares with incremental decoding.",
    )
    command.add_argument("question", nargs="?", help="what to ask")
    command.add_argument("--max-tokens", type=typed(at_least(1)), default=200, metavar="N", help="default: %(default)s")
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
        help="a small speculative model, repeatable: lookup, demo, or a folder, hub id or .gguf file, each with options "
        "after commas (mode=beam|expansion width=3 expansion=1-1-3-1-1 quantization=int8 name=NAME); none: no SSM "
        f"(default: {' and '.join(DEFAULT_SSMS)}, where they fit the LLM)",
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
    settings = command.add_argument_group("settings of the services")
    add_settings(settings, [DRAIN, *(known.setting for known in suite_settings())], has_defaults=False)
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="show the log of the services that are started here")
    shown.add_argument("--quiet", action="store_true", help="show results and errors only")


def _add_suite_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("a running suite")
    group.add_argument(
        "--address",
        type=typed(checked_address),
        metavar="HOST:PORT",
        help="its router; without it a suite is started and stopped again",
    )
    group.add_argument("--tls", action="store_true", help="connect by TLS; implied by the files below")
    group.add_argument("--tls-ca", metavar="FILE", help="PEM file of the authority to trust, instead of public ones")
    group.add_argument("--client-certificate", metavar="FILE", help="PEM file, for a router that asks for one (mTLS)")
    group.add_argument("--client-private-key", metavar="FILE", help="PEM file")
    group.add_argument("--token-file", metavar="FILE", help="file with a bearer token, for a proxy that asks for one")
    _add_model_options(command)


def _add_sampling_options(command: argparse.ArgumentParser, default_max_tokens: int) -> None:
    group = command.add_argument_group("sampling")
    add = group.add_argument
    add("--temperature", type=_sampling("temperature"), default=0.0, metavar="T", help="0 = greedy (default)")
    add("--top-k", type=_top_k, default=0, metavar="K", help="keep the k most probable tokens; 0 or -1 = off")
    add("--top-p", type=_sampling("top_p"), default=1.0, metavar="P", help="keep the top tokens of this mass; 1 = off")
    add("--min-p", type=_sampling("min_p"), default=0.0, metavar="P", help="keep tokens of this share of the best one")
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        allowed = SAMPLING_RANGES[name]
        add(_flag(name), type=_sampling(name), metavar="X", help=f"{allowed.low:g} to {allowed.high:g}")
    group.add_argument(
        "--seed", type=typed(at_least(0)), metavar="N", help="the same seed gives the same output (default: random)"
    )
    group.add_argument(
        "--max-tokens",
        type=typed(at_least(0)),
        default=default_max_tokens,
        metavar="N",
        help="output tokens at most; 0 = what the context holds (default: %(default)s)",
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    group.add_argument(
        "--stop",
        action="append",
        type=typed(_stop_text),
        metavar="TEXT",
        help="a text that ends the output, repeatable",
    )
    group.add_argument("--no-speculation", action="store_true", help="decode incrementally; the output is the same")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _sampling(name: str) -> Callable[[str], float]:
    """A sampling parameter in the range that the router allows, so that a wrong one is told before services start."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be a number, got {text!r}") from None
        if (problem := SAMPLING_RANGES[name].problem(value)) is not None:
            raise ValueError(problem)
        return value

    return typed(read)


def _top_k(text: str) -> int:
    return 0 if text == "-1" else int(typed(at_least(0))(text))


def _stop_text(text: str) -> str:
    if not 1 <= len(text) <= MAX_STOP_TEXT_LEN:
        raise ValueError(f"must have 1 to {MAX_STOP_TEXT_LEN} characters, has {len(text)}")
    return text
