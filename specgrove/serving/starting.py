"""How a service ends that is still starting: at once, and also as process 1 of a container.

The kernel keeps SIGTERM from a process 1 that has no handler for it, and a handler in Python waits for the end of whatever runs: loading
a model is calls of minutes. So a thread waits for the signals. From when a server runs it takes them itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT end this process, until an event loop takes them. For the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, _leave_to_thread) for number in _SIGNALS}
    other = signal.set_wakeup_fd(writing)
    threading.Thread(target=_wait, args=(reading,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        if (current := signal.set_wakeup_fd(other)) not in (writing, -1):
            signal.set_wakeup_fd(current)
        for number, handler in before.items():
            if signal.getsignal(number) is _leave_to_thread:
                signal.signal(number, handler)
        os.close(writing)  # which ends the thread


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """Python writes the number of a signal that has a handler to the pipe."""


def _wait(reading: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        numbers = pipe.read(1)
    if numbers:
        logger.warning("%s before it serves: ending at once", signal.Signals(numbers[0]).name)
        os._exit(128 + numbers[0])
