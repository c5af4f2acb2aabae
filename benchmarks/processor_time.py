"""Processor time of other processes, from ``/proc``. Linux only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Of a process and all its threads so far. Raises ``OSError`` where it is not there."""
    return _parent_and_cpu_s(Path(f"/proc/{pid}/stat"))[1]


def descendants_cpu_s() -> float:
    """Of all processes that descend from this one so far."""
    found: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(path.parent.name)] = _parent_and_cpu_s(path)
    family = {os.getpid()}
    while more := {pid for pid, (parent, _) in found.items() if parent in family} - family:
        family |= more
    return sum(found[pid][1] for pid in family - {os.getpid()})


def _parent_and_cpu_s(path: Path) -> tuple[int, float]:
    # Behind the name, which may have blanks.
    fields = path.read_text().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S
