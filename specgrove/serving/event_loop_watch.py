"""Ends a process whose event loop gets no turn any more. Used by the server of each service.

Either something blocks the loop, or a native call that hangs holds the interpreter, and then no thread of Python can act: clients'
pings are still answered, and their streams would wait for ever. So a thread of C++ watches, and every thread's stack goes to stderr.
The time for which the process was stopped, as by ``docker pause``, does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import sys

from specgrove.kernels.turn_watch import TurnWatch

_MAX_INTERVAL_S = 1.0
_SIGNAL = signal.SIGRTMIN + 5  # of which nothing else here makes use


async def watch_event_loop(timeout_s: float) -> None:
    """Runs until it is cancelled. The process ends with code 1 when the loop leaves this without a turn for ``timeout_s``."""
    with contextlib.suppress(
        AttributeError, OSError, RuntimeError, ValueError
    ):  # without a stderr there is nothing to write to
        faulthandler.register(_SIGNAL, file=sys.__stderr__ or sys.stderr, all_threads=True)
    watch = TurnWatch(timeout_s, _SIGNAL)
    try:
        while True:
            watch.beat()
            await asyncio.sleep(min(_MAX_INTERVAL_S, timeout_s / 4))
    finally:
        watch.stop()
