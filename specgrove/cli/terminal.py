"""The terminal's own state: what it does with keys that nobody reads just now."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Iterator


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Keys that are pressed during an answer, Ctrl-C's ``^C`` too, don't show in its text. What was typed is read afterwards.

    Does nothing in the background (``specgrove generate ... > file &``): the terminal stops programs there that change its state.
    """
    if sys.stdin is None or not sys.stdin.isatty() or _is_in_background(sys.stdin.fileno()):
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~termios.ECHO  # local modes
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _is_in_background(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # not the terminal that controls this process, so it stops nobody
        return False
