"""The ``specgrove`` command: parses, calls one function per command, turns failures into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. What a command prints as its result goes to stdout, all else to stderr.
"""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from specgrove.cli.arguments import parser
from specgrove.cli.flags import in_flags
from specgrove.errors import NO_TORCH, InvalidRequestError, SpecGroveError
from specgrove.machine.folders import provide_home

# Where a command's name is no module's.
_MODULES = {"spec-infer": "spec_infer", "incr-decoding": "spec_infer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the console script exits with what this returns."""
    _print_any_text()
    words = sys.argv[1:] if argv is None else argv
    grammar = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(grammar)
    if not words:
        grammar.print_help(sys.stderr)
        return 2
    arguments = grammar.parse_args(words)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None and sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has written ^C there
        return 130
    except BrokenPipeError:
        # Who read our output has gone, e.g. `| head`. Closing stdout keeps Python from complaining at exit.
        sys.stderr.close()
        return 1


def _run(arguments: argparse.Namespace) -> int:
    try:
        provide_home()  # before libraries are imported that look for it
    except OSError as error:
        print(f"specgrove: error: {_one_line(error)}", file=sys.stderr)
        return 1
    # Imported late, and one command alone: `specgrove --help` needs none of them, and most need little of what others do.
    from specgrove.settings import in_suite_flags
    from specgrove.suite.processes import NotReadyError, section_of
    from specgrove.suite.supervisor import ProcessFailedError

    command = importlib.import_module(f"specgrove.cli.{_MODULES.get(arguments.command, arguments.command)}")
    try:
        code: int = command.run(arguments)
    except ProcessFailedError as error:
        print(f"specgrove: error: {in_suite_flags(_one_line(error), section_of(error.name))}", file=sys.stderr)
        return 1
    except (SpecGroveError, NotReadyError, OSError, ValueError) as error:  # the hub's are OSErrors
        if isinstance(error, BrokenPipeError):
            raise
        print(f"specgrove: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(f"specgrove: error: {NO_TORCH}", file=sys.stderr)
        return 1
    return code


def _print_any_text() -> None:
    """Models write in all scripts: where the terminal's encoding lacks a character, a ? stands for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _one_line(error: Exception) -> str:
    if isinstance(error, InvalidRequestError):
        return " ".join(in_flags(error).split())
    if isinstance(error, OSError) and error.strerror:  # without Python's number for it
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
