"""The ``specgrove`` command: parses, calls one function per command, turns failures into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. What a command prints as its result goes to stdout, all else to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from specgrove.cli.arguments import parser
from specgrove.folders import provide_home


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the console script exits with what this returns."""
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
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
    # Imported late: `specgrove --help` needs none of these.
    from huggingface_hub.errors import HfHubHTTPError

    from specgrove.cli import chat, demo, generate, models, quantize, serve
    from specgrove.errors import SpecGroveError
    from specgrove.serve import NotReadyError
    from specgrove.supervisor import ProcessFailedError

    commands = {
        "serve": serve.run,
        "generate": generate.run,
        "chat": chat.run,
        "models": models.run,
        "quantize": quantize.run,
        "demo": demo.run,
    }
    try:
        return commands[arguments.command](arguments)
    except (SpecGroveError, ProcessFailedError, NotReadyError, OSError, ValueError, HfHubHTTPError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"specgrove: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
