"""Ends a process whose event loop gets no turn any more. Used by the server of each service.

Either something blocks the loop, or a native call that hangs holds the interpreter, and then no thread of Python can act: clients'
pings are still answered, and their streams would wait for ever. So the timer is one of C, which writes every thread's stack to stderr.
"""

from __future__ import annotations

import asyncio
import faulthandler

_MAX_INTERVAL_S = 1.0


async def watch_event_loop(timeout_s: float) -> None:
    """Runs until it is cancelled. The process ends with code 1 when the loop leaves this without a turn for ``timeout_s``."""
    try:
        while True:
            faulthandler.dump_traceback_later(timeout_s, exit=True)
            await asyncio.sleep(min(_MAX_INTERVAL_S, timeout_s / 4))
    finally:
        faulthandler.cancel_dump_traceback_later()
