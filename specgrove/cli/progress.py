"""What is shown on stderr while something takes long: a spinner on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.status

_NUMBERS = re.compile(r"\d+")
SAME_WORK_INTERVAL_S = 10.0
"""Where nobody sees a spinner: between two lines on work that gets on."""


@contextlib.contextmanager
def showing(
    console: rich.console.Console, message: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str], None]]:
    """``waiting``, with a function that shows further messages: in place on a terminal, elsewhere in lines.

    A message that differs from the last one in its numbers only is the same work getting on: no line, unless the last one is old.
    """
    with waiting(console, message) as status:
        last, last_s = "", clock()

        def show(message: str) -> None:
            nonlocal last, last_s
            status.update(message)
            kind = _NUMBERS.sub("", message)
            if console.is_terminal or (kind == last and clock() - last_s < SAME_WORK_INTERVAL_S):
                return
            last, last_s = kind, clock()
            console.print(message, style="dim", markup=False)

        yield show


def waiting(console: rich.console.Console, message: str) -> rich.status.Status:
    """A spinner on a terminal; elsewhere one line, so that logs and pipes see the step too."""
    if not console.is_terminal:
        console.print(f"{message} ...", style="dim")
    return console.status(message, spinner="dots")
