"""Groups of options that several commands have. Used by ``specgrove.cli.arguments``; imports nothing heavy, as that does."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from specgrove.addresses import checked_address, checked_http_address
from specgrove.config import DEFAULT_ADDRESS
from specgrove.ranges import MAX_NUM_LOG_PROBS, MAX_STOP_TEXT_LEN, SAMPLING_RANGES
from specgrove.settings import API_KEY_FILE, SuiteFlag, add_flag, of_whom, path, suite_flags, typed, unsigned

MORE_SETTINGS = (
    "A suite that is started here takes all settings of the services, too: `specgrove serve --help` lists them."
)


def add_suite_settings(
    command: argparse.ArgumentParser, *, are_all_listed: bool, without: Collection[str] = ()
) -> None:
    """What a suite is started with. All of it is taken; where not all is listed, only what is common is. ``without`` are flags it has."""
    groups: dict[str, Any] = {}
    known = (flag for flag in suite_flags() if flag.name not in without)
    flags = sorted(known, key=lambda flag: (not flag.setting.is_common, len(flag.sections)))
    for flag in flags:
        is_listed = flag.is_listed and (are_all_listed or flag.setting.is_common)
        title = _group_of(flag) if is_listed else ""
        if is_listed and title not in groups:
            groups[title] = command.add_argument_group(title)
        add_flag(groups[title] if is_listed else command, flag.setting, flag.name, is_listed=is_listed)
    group = command.add_argument_group("a file with settings")
    group.add_argument(
        "--config",
        type=typed(path),
        metavar="FILE",
        help="YAML file with settings of the suite; those of the command line go before it",
    )
    if are_all_listed:
        group.add_argument(
            "--print-config", action="store_true", help="print all settings as such a file, with their values, and end"
        )
        group.add_argument(
            "--print-config-schema", action="store_true", help="print the file's JSON schema, for editors, and end"
        )


def _group_of(flag: SuiteFlag) -> str:
    if flag.setting.is_common:
        return "models"
    title = f"settings of {of_whom(flag.sections)}"
    # Those of the suite have no service to name.
    section = flag.sections[0] if len(flag.sections) == 1 else ""
    return f"{title}, each also as --{section}.NAME" if section else title


def add_output_options(command: argparse.ArgumentParser) -> None:
    """What a command shows beside its results."""
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="show the log of the services that are started here")
    shown.add_argument("--quiet", action="store_true", help="show results and errors only")


def add_suite_options(
    command: argparse.ArgumentParser, *, is_http: bool = False, without: str = "a suite is started and stopped again"
) -> None:
    """How to reach a running suite, or its HTTP API, or else to start one. ``without`` says what happens without an address."""
    _add_connection_options(
        command,
        "file whose first line is the API key to send; of a suite that is started here: keys that its clients need",
        type=typed(checked_http_address if is_http else checked_address),
        help=f"its {'HTTP API' if is_http else 'router'}; without it {without}",
    )
    add_suite_settings(command, are_all_listed=False, without=[API_KEY_FILE.name])


def add_running_suite_options(command: argparse.ArgumentParser) -> None:
    """How to reach a running suite, for commands that start none."""
    _add_connection_options(
        command,
        "file whose first line is the API key to send",
        type=typed(checked_address),
        default=DEFAULT_ADDRESS,
        help="its router (default: %(default)s)",
    )
    command.set_defaults(config=None)


def _add_connection_options(command: argparse.ArgumentParser, key_help: str, **address: Any) -> None:
    group = command.add_argument_group("a running suite")
    group.add_argument("--address", metavar="HOST:PORT", **address)
    group.add_argument("--tls", action="store_true", help="connect by TLS; implied by the files below")
    group.add_argument("--tls-ca", metavar="FILE", help="PEM file of the authority to trust, instead of public ones")
    group.add_argument("--client-certificate", metavar="FILE", help="PEM file, for a router that asks for one (mTLS)")
    group.add_argument("--client-private-key", metavar="FILE", help="PEM file")
    group.add_argument(
        f"--{API_KEY_FILE.name}",
        type=typed(path),
        metavar="FILE",
        help=key_help,
    )


_PENALTIES = {
    "repetition_penalty": "above 1: tokens that were there already become less probable",
    "presence_penalty": "above 0: so do those of the output",
    "frequency_penalty": "above 0: the same, the more often they came",
}


def add_sampling_options(command: argparse.ArgumentParser, default_max_tokens: int) -> None:
    """How to choose tokens, and when to stop, for one output."""
    group = add_choice_options(command, default_max_tokens)
    for name, meaning in _PENALTIES.items():
        allowed = SAMPLING_RANGES[name]
        meaning = f"{meaning}; {allowed.low:g} to {allowed.high:g}"
        group.add_argument(_flag(name), type=_sampling(name), metavar="X", help=meaning)
    group.add_argument(
        "--stop",
        action="append",
        type=typed(_stop_text),
        metavar="TEXT",
        help="a text that ends the output, repeatable",
    )
    _add_structure_options(group.add_mutually_exclusive_group())
    group.add_argument("--no-speculation", action="store_true", help="decode incrementally; the output is the same")


def add_choice_options(command: argparse.ArgumentParser, default_max_tokens: int) -> argparse._ArgumentGroup:
    """The same of many outputs, where only the usual is asked for."""
    group = command.add_argument_group("sampling")
    add = group.add_argument
    add("--temperature", type=_sampling("temperature"), metavar="T", help="0 = greedy (default)")
    add("--top-k", type=typed(_top_k), metavar="K", help="keep the k most probable tokens; 0 or -1 = off (default)")
    add("--top-p", type=_sampling("top_p"), metavar="P", help="keep the top tokens of this mass; 1 = off (default)")
    add("--min-p", type=_sampling("min_p"), metavar="P", help="keep tokens of this share of the best one")
    add(
        "--recommended-sampling",
        action="store_true",
        help="sampling options that are left out are as the model's generation_config.json recommends",
    )
    group.add_argument(
        "--seed", type=typed(unsigned(64)), metavar="N", help="the same seed gives the same output (default: random)"
    )
    group.add_argument(
        "--max-tokens",
        type=typed(unsigned(32)),
        default=default_max_tokens,
        metavar="N",
        help="output tokens at most; 0 = what the context holds (over HTTP: no output; default: %(default)s)",
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    return group


def _add_structure_options(group: argparse._MutuallyExclusiveGroup) -> None:
    """What the output must look like: one of them."""
    add = group.add_argument
    add("--json-object", action="store_true", help="the output is a JSON object")
    add("--json-schema", type=_structure("json_schema", _content), metavar="FILE", help="JSON that this schema allows")
    add("--regex", type=_structure("regex", str), metavar="REGEX", help="what this regular expression matches")
    add("--choice", action="append", metavar="TEXT", help="one of these texts, repeatable")
    add(
        "--grammar", type=_structure("grammar", _content), metavar="FILE", help="what it allows: Lark's syntax, or GBNF"
    )


def _structure(kind: str, content_of: Callable[[str], str]) -> Callable[[str], str]:
    """Checked as far as it can be without a model's vocabulary, so that a mistake is told before services start."""

    def read(text: str) -> str:
        content = content_of(text)
        place = f"{text}: " if content_of is _content else ""
        # Imported where it is asked for: it costs a quarter of a second.
        from specgrove.structures.grammars import check_text
        from specgrove.structures.structured_output import StructuredOutput, StructureKind

        try:
            check_text(StructuredOutput(StructureKind(kind), (content,)))
        except ValueError as error:
            raise ValueError(f"{place}{error}") from error
        return content

    return typed(read)


def _content(path: str) -> str:
    if path.lstrip().startswith("{") or "\n" in path or "::=" in path:
        raise ValueError("takes a file; this looks like what it should hold: write it to one")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no UTF-8 text"
        raise ValueError(f"{path}: {reason}") from None


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


def num_log_probs(text: str) -> int:
    """How many of the most probable tokens are told at each place. Raises ``ValueError``."""
    number: int = unsigned(32)(text)
    if number > MAX_NUM_LOG_PROBS:
        raise ValueError(f"must be at most {MAX_NUM_LOG_PROBS}, got {number}")
    return number


def _stop_text(text: str) -> str:
    if not 1 <= len(text) <= MAX_STOP_TEXT_LEN:
        raise ValueError(f"must have 1 to {MAX_STOP_TEXT_LEN} characters, has {len(text)}")
    return text
