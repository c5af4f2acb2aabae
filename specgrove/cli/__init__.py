"""The ``specgrove`` command: parses, calls one function per command, turns failures into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 and 129 after SIGTERM and SIGHUP. What a command prints as its result goes
to stdout, all else to stderr.
"""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from specgrove.cli.arguments import parser
from specgrove.cli.ending import ended_by_signals
from specgrove.cli.flags import in_flags
from specgrove.cli.standard_streams import drop_output, flush_output, provide_streams
from specgrove.errors import NO_TORCH, InvalidRequestError, SpecGroveError
from specgrove.machine.folders import provide_home

# Where a command's name is no module's.
_MODULES = {"spec-infer": "spec_infer", "incr-decoding": "spec_infer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the console script exits with what this returns."""
    provide_streams()
    try:
        with ended_by_signals():
            return _parsed_and_run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has written ^C there
        return 130


def _parsed_and_run(words: Sequence[str]) -> int:
    try:
        try:
            code = _run(words)
        except SystemExit:
            flush_output()  # of --help and --version
            raise
        flush_output()
        return code
    except BrokenPipeError:
        drop_output()  # who read it has gone, e.g. `| head`
        return 1
    except OSError as error:  # a full disk
        drop_output()
        return _told(error)


def _run(words: Sequence[str]) -> int:
    try:
        grammar = parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
            import argcomplete

            argcomplete.autocomplete(grammar)
        if not words:
            grammar.print_help(sys.stderr)
            return 2
        arguments = grammar.parse_args(words)
        _check_current_folder()
        provide_home()  # before libraries are imported that look for it
    except OSError as error:
        return _told(error)
    # Imported late, and one command alone: `specgrove --help` needs none of them, and most need little of what others do.
    from specgrove.settings import in_suite_flags
    from specgrove.suite.processes import NotReadyError, section_of
    from specgrove.suite.supervisor import ProcessFailedError

    try:
        # Libraries read their own environment variables then, and some end in what those hold.
        command = importlib.import_module(f"specgrove.cli.{_MODULES.get(arguments.command, arguments.command)}")
        code: int = command.run(arguments)
    except ProcessFailedError as error:
        print(f"specgrove: error: {in_suite_flags(_one_line(error), section_of(error.name))}", file=sys.stderr)
        return 1
    except (SpecGroveError, NotReadyError, OSError, ValueError) as error:  # the hub's are OSErrors
        if isinstance(error, BrokenPipeError):
            raise
        code = _told(error)
        with contextlib.suppress(OSError):  # what there was before it; the error may have been that of a full disk
            flush_output()
        return code
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(f"specgrove: error: {NO_TORCH}", file=sys.stderr)
        return 1
    return code


def _check_current_folder() -> None:
    """Raises ``OSError`` where it was removed: libraries that compute end the process there, in words of their own."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise OSError("the current folder is not there any more: change to another one with `cd`") from error


def _told(error: Exception) -> int:
    """The exit code."""
    print(f"specgrove: error: {_one_line(error)}", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    if isinstance(error, InvalidRequestError):
        return " ".join(in_flags(error).split())
    if isinstance(error, OSError) and error.strerror:  # without Python's number for it
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
