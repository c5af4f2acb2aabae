"""The router's process, with a record of what takes its event loop long. Started by ``benchmarks.strangers``.

    python -m benchmarks.strangers.router RECORD_FILE ROUTER_ARGUMENT ...

At SIGUSR1 it writes the largest processor time of one turn of the event loop since the last time, in milliseconds, with whose part of
it was the largest. A turn is all that was ready when the loop looked. It is processor time of the whole process while a turn runs: what
other processes on the machine do is not in it; all that clients' requests do is, on the loop and in threads that keep the interpreter.
The loop is asyncio's: turns of uvloop, which routers have otherwise, can't be timed from outside.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from router.__main__ import main
from specgrove.serving import event_loop


def _told(handle: asyncio.Handle) -> str:
    task: Any = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    if isinstance(task, asyncio.Task):
        coroutine: Any = task.get_coro()
        return str(getattr(coroutine, "__qualname__", coroutine))
    return str(getattr(handle._callback, "__qualname__", handle._callback))  # type: ignore[attr-defined]


class _Record:
    """The longest turn, and the longest part of the turn under way."""

    def __init__(self) -> None:
        self.longest: tuple[float, str] = (0.0, "")
        self._part: tuple[float, asyncio.Handle | None] = (0.0, None)
        self._began_s: float | None = None

    def timed_part(self, run: Callable[[asyncio.Handle], None], handle: asyncio.Handle) -> None:
        started_s = time.process_time()
        if self._began_s is None:
            self._began_s = started_s
        run(handle)
        spent_s = time.process_time() - started_s
        if spent_s > self._part[0]:
            self._part = spent_s, handle

    def timed_turn(self, run: Callable[[Any], None], loop: Any) -> None:
        self._part, self._began_s = (0.0, None), None
        run(loop)
        spent_ms = 0.0 if self._began_s is None else (time.process_time() - self._began_s) * 1e3
        if spent_ms > self.longest[0]:
            part_s, handle = self._part
            self.longest = spent_ms, "" if handle is None else f"{part_s * 1e3:.1f} of them {_told(handle)}"


def _watch(path: Path) -> None:
    event_loop.new_event_loop = asyncio.new_event_loop
    record = _Record()
    run_part, run_turn = asyncio.Handle._run, asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

    def write(number: int, frame: FrameType | None) -> None:
        (spent_ms, who), record.longest = record.longest, (0.0, "")
        new = path.with_suffix(".new")
        new.write_text(f"{spent_ms:.2f} {who}")
        new.replace(path)

    setattr(asyncio.Handle, "_run", lambda self: record.timed_part(run_part, self))  # noqa: B010
    setattr(asyncio.BaseEventLoop, "_run_once", lambda self: record.timed_turn(run_turn, self))  # noqa: B010
    signal.signal(signal.SIGUSR1, write)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
    del sys.argv[1]
    main()
