"""Groups of options that several commands have. Used by ``specgrove.cli.arguments``; imports nothing heavy, as that does."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

from specgrove.addresses import checked_address
from specgrove.config import (
    DEFAULT_DTYPE,
    DEFAULT_LLM,
    DEFAULT_SSMS,
    DTYPES,
    QUANTIZATIONS,
)
from specgrove.ranges import MAX_STOP_TEXT_LEN, SAMPLING_RANGES
from specgrove.settings import DRAIN, Setting, add_settings, at_least, positive_seconds, suite_settings, typed, unsigned

MORE_SETTINGS = (
    "A suite that is started here takes all settings of the services, too: `specgrove serve --help` lists them."
)
_SERVICES = {"router": "router", "llm_service": "LLM service", "ssm_service": "SSM service"}


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Which models a suite is started with, and how long that may take."""
    group = command.add_argument_group("models")
    group.add_argument(
        "--llm",
        metavar="MODEL",
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


def add_service_settings(command: argparse.ArgumentParser, *, are_shown: bool) -> None:
    """By the services that have them, the most particular first."""
    by_services: dict[tuple[str, ...], list[Setting]] = {}
    for known in suite_settings():
        by_services.setdefault(known.services, []).append(known.setting)
    by_services[tuple(_SERVICES)].insert(0, DRAIN)
    for services, settings in sorted(by_services.items(), key=lambda item: len(item[0])):
        names = " and ".join(_SERVICES[service] for service in services) if len(services) < 3 else "all services"
        group = command.add_argument_group(f"settings of {names if len(services) > 2 else f'the {names}'}")
        shown = settings if are_shown else [dataclasses.replace(setting, help=None) for setting in settings]
        add_settings(group, shown, has_defaults=False)


def add_output_options(command: argparse.ArgumentParser) -> None:
    """What a command shows beside its results."""
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="show the log of the services that are started here")
    shown.add_argument("--quiet", action="store_true", help="show results and errors only")


def add_suite_options(command: argparse.ArgumentParser) -> None:
    """How to reach a running suite, or else to start one."""
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
    add_model_options(command)
    add_service_settings(command, are_shown=False)


_PENALTIES = {
    "repetition_penalty": "above 1: tokens that were there already become less probable",
    "presence_penalty": "above 0: so do those of the output",
    "frequency_penalty": "above 0: the same, the more often they came",
}


def add_sampling_options(command: argparse.ArgumentParser, default_max_tokens: int) -> None:
    """How to choose tokens, and when to stop."""
    group = command.add_argument_group("sampling")
    add = group.add_argument
    add("--temperature", type=_sampling("temperature"), default=0.0, metavar="T", help="0 = greedy (default)")
    add("--top-k", type=typed(_top_k), default=0, metavar="K", help="keep the k most probable tokens; 0 or -1 = off")
    add("--top-p", type=_sampling("top_p"), default=1.0, metavar="P", help="keep the top tokens of this mass; 1 = off")
    add("--min-p", type=_sampling("min_p"), default=0.0, metavar="P", help="keep tokens of this share of the best one")
    for name, meaning in _PENALTIES.items():
        allowed = SAMPLING_RANGES[name]
        meaning = f"{meaning}; {allowed.low:g} to {allowed.high:g}"
        add(_flag(name), type=_sampling(name), metavar="X", help=meaning)
    group.add_argument(
        "--seed", type=typed(unsigned(64)), metavar="N", help="the same seed gives the same output (default: random)"
    )
    group.add_argument(
        "--max-tokens",
        type=typed(unsigned(32)),
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
    try:
        return 0 if text == "-1" else unsigned(32)(text)
    except ValueError as error:
        raise ValueError(f"{error}; 0 or -1 turns it off") from None


def _stop_text(text: str) -> str:
    if not 1 <= len(text) <= MAX_STOP_TEXT_LEN:
        raise ValueError(f"must have 1 to {MAX_STOP_TEXT_LEN} characters, has {len(text)}")
    return text
