"""Processes that stand back for others on the same cores. Used by who starts one: before it has begun to import what it needs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# A tenth of the time of a core that others would use as well.
_NICENESS = 10


def lower_priority(pid: int) -> None:
    """For a process that was started with a session of its own. Where a sandbox forbids it, the priority stays."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, 19))
    # Linux shares a processor out among sessions first; niceness alone counts within one (man 7 sched, autogroup).
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICENESS))
