"""A command with all its processes, as one group that can be stopped and resumed, and that ends with whoever started it.

    python group.py COMMAND ...

is what ``Group`` runs: it stands between, prints the group's id, and ends the group when its input is closed: so also where the starter is
killed, and the group stands stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_END_S = 20.0


class Group:
    """Started with the object. ``close`` ends it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: BinaryIO) -> None:
        """It works in ``folder``. What is printed goes to ``log``. Raises ``OSError`` where the command can't be started."""
        self._between = subprocess.Popen(
            [sys.executable, str(Path(__file__).absolute()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the starter, which then ends the group
        )
        assert self._between.stdout is not None
        line = self._between.stdout.readline()
        if not line:
            raise OSError(f"{command[0]} could not be started")
        self._id = int(line)

    def exit_code(self) -> int | None:
        """``None`` while the command runs."""
        return self._between.poll()

    def stop(self) -> None:
        """From now on none of its processes computes."""
        _signal(self._id, signal.SIGSTOP)

    def resume(self) -> None:
        """They go on where they were."""
        _signal(self._id, signal.SIGCONT)

    def close(self) -> None:
        """Ends all of it. Harmless when called again."""
        assert self._between.stdin is not None
        assert self._between.stdout is not None
        self._between.stdin.close()
        self._between.wait()
        self._between.stdout.close()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(group, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In good order, or by force where that takes too long."""
    _signal(process.pid, signal.SIGTERM)
    _signal(process.pid, signal.SIGCONT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_END_S)
    _signal(process.pid, signal.SIGKILL)


def main() -> int:
    """Stands between. The command's exit code."""
    try:
        process = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True
        )
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(process.pid, flush=True)

    def end_with_input() -> None:
        sys.stdin.read()
        _end(process)

    threading.Thread(target=end_with_input, daemon=True).start()
    code = process.wait()
    _signal(process.pid, signal.SIGKILL)  # what it has left behind
    return code


if __name__ == "__main__":
    sys.exit(main())
