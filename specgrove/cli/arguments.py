"""The command line's grammar. Imports nothing heavy, so that ``--help`` is quick. What can be checked without a model is checked
here, before anything starts."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from specgrove.addresses import checked_address
from specgrove.cli.batch_arguments import add_batch
from specgrove.cli.doctor_arguments import add_completion, add_doctor
from specgrove.cli.flexflow_arguments import add_spec_infer
from specgrove.cli.key_arguments import add_key
from specgrove.cli.measuring_arguments import add_bench, add_eval
from specgrove.cli.option_groups import (
    MORE_SETTINGS,
    add_output_options,
    add_sampling_options,
    add_suite_options,
    add_suite_settings,
    num_log_probs,
)
from specgrove.cli.ssm_arguments import add_ssm
from specgrove.cli.top_arguments import add_top
from specgrove.config import (
    DEFAULT_LLM,
    DTYPES,
)
from specgrove.settings import (
    CACHE_DIR,
    SECTIONS,
    add_settings,
    nearest,
    path,
    typed,
    unsigned,
)
from specgrove.version import version

# What an option is called elsewhere, where its spelling is nearer to another one.
_OTHER_NAMES = {"--address": "--grpc-address", "--port": "--grpc-address", "--host": "--grpc-address"}


class _Parser(argparse.ArgumentParser):
    """Names an option that does not exist with its own command's usage, and what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing is left over: each command knows all its options."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown[0])}")
        return namespace, []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A value that is none of an option's choices, or of the commands, is told with the nearest."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += nearest(str(value), map(str, action.choices or ()))
            raise

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """A number is a value, though ``-4`` would be a beginning of ``-4bit-quantization``."""
        is_number = self._negative_number_matcher.match(option_string) is not None
        return [] if is_number else super()._get_option_tuples(option_string)

    def _meant(self, word: str) -> str:
        name = word.partition("=")[0]
        close = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0.7)
        meant = _OTHER_NAMES.get(name)
        if meant is not None and meant in self._option_string_actions:
            close = [meant]
        elif programs := _programs_with(name):
            return f" (a setting of {' and '.join(programs)} alone)"
        return f" (did you mean {close[0]}?)" if close else ""


def _programs_with(flag: str) -> list[str]:
    """The services by hand that have it, where a suite has it for none: it sets that itself."""
    having = [
        (section, setting)
        for section, settings in SECTIONS.items()
        for setting in settings
        if flag in (f"--{setting.name}", f"--{section}.{setting.name}")
    ]
    if not all(setting.is_of_suite for _, setting in having):
        return []
    return [f"`python -m {section if section == 'router' else f'{section}_service'}`" for section, _ in having]


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` names the one chosen."""
    top = _Parser(
        prog="specgrove",
        description="LLM serving with low latency by speculative inference with token-tree verification.",
    )
    top.add_argument("--version", action="version", version=f"specgrove {version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_generate(commands)
    _add_chat(commands)
    _add_models(commands)
    _add_quantize(commands)
    add_ssm(commands)
    _add_demo(commands)
    add_batch(commands)
    add_bench(commands)
    add_eval(commands)
    add_spec_infer(commands)
    add_doctor(commands)
    add_key(commands)
    add_completion(commands)
    add_top(commands)
    return top


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "serve",
        usage="specgrove serve [OPTION ...]",
        help="start the three services and keep them running",
        description="Starts the LLM service, the SSM service and the router, and keeps them running until Ctrl-C or SIGTERM.",
    )
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="show the services' log, from --log-level on")
    shown.add_argument("--quiet", action="store_true", help="show errors only, and not where it listens")
    add_suite_settings(command, are_all_listed=True)


def _add_generate(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "generate",
        usage="specgrove generate [OPTION ...] PROMPT",
        help="generate text from one prompt",
        description="Generates text from one prompt, with a running suite (--address) or one that is started for it.",
        epilog=MORE_SETTINGS,
    )
    command.add_argument(
        "prompt", nargs="+", type=typed(_prompt), help="the prompt, in quotes; - reads it from standard input"
    )
    command.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    command.add_argument(
        "--json", action="store_true", help="print one line of JSON with text, token ids and statistics"
    )
    command.add_argument(
        "--prompt-log-probs",
        type=typed(num_log_probs),
        metavar="N",
        help="with --json: how probable each token of the prompt is, and the N most probable ones at its place",
    )
    add_output_options(command)
    add_sampling_options(command, default_max_tokens=256)
    add_suite_options(command)


def _prompt(text: str) -> str:
    if not text:
        raise ValueError("is empty: give a prompt in quotes, or - to read it from standard input")
    return text


def _add_chat(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "chat",
        usage="specgrove chat [OPTION ...]",
        help="talk with the model",
        description="Talks with the model over several turns. /help, in the conversation, says what there is.",
        epilog=MORE_SETTINGS,
    )
    command.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    command.add_argument(
        "--web",
        nargs="?",
        const="127.0.0.1:0",
        type=typed(checked_address),
        metavar="HOST:PORT",
        help="in a browser, on a page that shows what speculation does (default: a free port of this machine); needs Gradio",
    )
    add_output_options(command)
    add_sampling_options(command, default_max_tokens=512)
    add_suite_options(command)


def _add_models(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "models", help="list, inspect, download and convert models", description="Manages models on this machine."
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="{list,info,download,convert}")
    listing = actions.add_parser("list", help="what is in our cache and in the Hugging Face hub's")
    listing.add_argument("--json", action="store_true", help="print one line of JSON, a list")
    info = actions.add_parser("info", help="what a model is, and whether it can be served")
    info.add_argument("model", metavar="MODEL", help=f"a Hugging Face id, folder, .gguf file, or {DEFAULT_LLM}")
    info.add_argument("--json", action="store_true", help="print one line of JSON")
    download = actions.add_parser("download", help="fetch a model, so that later starts need no network")
    which = download.add_mutually_exclusive_group(required=True)
    which.add_argument("model", nargs="?", metavar="ID", help=f"a Hugging Face id, or {DEFAULT_LLM}")
    which.add_argument(
        "--config",
        type=typed(path),
        metavar="FILE",
        help="YAML file with settings of a suite: its LLM, into its --cache-dir",
    )
    add_settings(download, [CACHE_DIR], has_defaults=False)
    for action in (listing, info):
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


def _add_quantize(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "quantize",
        help="write a model folder with weights of 8 or 4 bits",
        description="Quantises all linears of a model, the head to 8 bits; embeddings and norms stay as they are.",
    )
    command.add_argument("model", metavar="MODEL", help=f"a Hugging Face id, folder, or {DEFAULT_LLM}")
    command.add_argument("--bits", type=int, choices=(4, 8), required=True, help="of the linears' weights")
    command.add_argument(
        "--group-size", type=typed(_group_size), metavar="N", help="inputs that share a scale, for 4 bits (default: 32)"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    add_settings(command, [CACHE_DIR])


def _group_size(text: str) -> int:
    if not text.isdecimal() or not 4 <= int(text) <= 4096 or int(text) % 4:
        raise ValueError(f"must be a multiple of 4 from 4 to 4096, got {text!r}")
    return int(text)


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "demo",
        usage="specgrove demo [OPTION ...] [QUESTION]",
        help="show speculative inference at work",
        description="Starts the suite, streams an answer with the drafted tokens in colour, and compares with incremental decoding.",
        epilog=MORE_SETTINGS,
    )
    command.add_argument("question", nargs="?", help="what to ask")
    command.add_argument(
        "--max-tokens", type=typed(unsigned(32, minimum=1)), default=200, metavar="N", help="default: %(default)s"
    )
    add_output_options(command)
    add_suite_settings(command, are_all_listed=False)
