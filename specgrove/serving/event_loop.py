"""The event loop that a service runs on: uvloop's, where that is installed.

A step of decoding goes through a dozen turns of the services' loops. In uvloop a turn costs less processor time than in asyncio.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:  # no package for this system; asyncio's loop does the same
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

_Result = TypeVar("_Result")


_fd_of_loop = -1  # where uvloop's loop reads signals, as long as another one has them


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """As ``asyncio.run``. For the main thread."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_with_signals_of_before(main, _wakeup_fd()))


def take_signals() -> None:
    """After ``loop.add_signal_handler``: whoever waited for signals before ``run`` does so no longer."""
    if _fd_of_loop != -1:
        signal.set_wakeup_fd(_fd_of_loop)


async def _with_signals_of_before(main: Coroutine[Any, Any, _Result], wakeup_fd: int) -> _Result:
    """Whoever waits for signals does so until ``take_signals``: uvloop takes them as soon as it runs, asyncio with its first handler."""
    global _fd_of_loop
    if wakeup_fd != -1:
        of_loop = signal.set_wakeup_fd(wakeup_fd)
        _fd_of_loop = of_loop if of_loop != wakeup_fd else -1
    try:
        return await main
    finally:
        _fd_of_loop = -1


def _wakeup_fd() -> int:
    current = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(current)
    return current
