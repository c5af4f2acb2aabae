"""``python -m tests.with_forked_services FOLDER PROGRAM ARGS...`` runs a module or a file, whose suites' services are forked.

``FOLDER`` is where ``tests.forked_services`` listens. The program is else the one that ``python -m MODULE`` or ``python FILE`` runs.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from specgrove.suite import supervisor
from tests.forked_services import ForkingSubprocess


def main(folder: str, program: str, *arguments: str) -> None:
    """Ends as the program ends."""
    supervisor.subprocess = ForkingSubprocess(Path(folder))  # type: ignore[assignment]
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
