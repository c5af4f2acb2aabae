"""How a command ends that is told to: in order, as at its own end, with 128 and the signal's number as its exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""From a supervisor or `timeout`, and from a terminal that is closed. Ctrl-C is Python's ``KeyboardInterrupt``."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block they raise ``SystemExit``: a suite that was started is stopped, what is half-written is removed, and the terminal is
    left as it was.

    A signal that whoever started this process had it ignore stays ignored, as with ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in ENDING_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
