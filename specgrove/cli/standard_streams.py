"""Standard input, output and error of a command, whatever they were connected to when it was started.

Results go to standard output, so it is told where they can't be written. Standard error is for people: nobody may read it any more, or its
disk may be full, and the work goes on. Invariant: no file that is opened later gets the number of a stream that was closed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Unread(io.FileIO):
    """Takes what nobody will read."""

    def write(self, data: Buffer) -> int:
        """Whatever becomes of it, all of it is taken."""
        with contextlib.suppress(OSError):
            left = memoryview(data).cast("B")
            while left:
                left = left[super().write(left) or 0 :]
        return memoryview(data).nbytes


def provide_streams() -> None:
    """Before anything is opened or printed. A second call changes nothing.

    Models write in all scripts: where the terminal's encoding lacks a character, a ? stands for it.
    """
    for number in range(3):
        _reserve(number)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        raw = _Unread(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def flush_output() -> None:
    """What is left of the results. Raises ``OSError``, once: then they are lost, and Python complains of nothing at its exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """What is still to be written to standard output goes nowhere: nobody reads it."""
    if sys.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        sys.stdout.flush()


def _reserve(number: int) -> None:
    """The lowest free number is what the next file gets."""
    try:
        os.fstat(number)
    except OSError:
        with contextlib.suppress(OSError):
            os.open(os.devnull, os.O_RDWR)
