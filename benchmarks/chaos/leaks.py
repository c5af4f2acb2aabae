"""What is left when all requests have ended: sessions, slots, requests, descriptors, threads, memory. Used by ``chaos`` and ``soak``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.fleet import Fleet

# Connections that are being made anew, and a log's.
_MAX_MORE_DESCRIPTORS = 12
_MAX_MORE_THREADS = 8
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    num_descriptors: int
    num_threads: int
    rss_mib: float


def held_by(pid: int) -> Held:
    """Raises ``OSError`` where the process is gone."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status if ":" in line)
    return Held(
        len(list(Path(f"/proc/{pid}/fd").iterdir())), int(fields["Threads"]), int(fields["VmRSS"].split()[0]) / 1024
    )


def held_by_fleet(fleet: Fleet) -> dict[str, Held]:
    """By process."""
    found = {}
    for name in fleet.names:
        if (pid := fleet.pid(name)) is not None:
            found[name] = held_by(pid)
    return found


async def leaks(fleet: Fleet, before: dict[str, Held], timeout_s: float) -> list[str]:
    """In words, what is still held ``timeout_s`` after the last request; ``before`` is what idle processes held in the beginning."""
    until_s = time.monotonic() + timeout_s
    while found := await _found(fleet, before):
        if time.monotonic() > until_s:
            return found
        await asyncio.sleep(_LOOK_S)
    return []


async def _found(fleet: Fleet, before: dict[str, Held]) -> list[str]:
    found = [f"{name}: {number} requests" for name, number in (await fleet.num_requests()).items() if number]
    for name, load in (await fleet.loads()).items():
        if load.num_sessions or load.num_pending_items:
            found.append(f"{name}: {load.num_sessions} sessions, {load.num_pending_items} items")
        if load.num_free_slots < load.num_slots:
            found.append(f"{name}: {load.num_slots - load.num_free_slots} slots")
    for name, now in held_by_fleet(fleet).items():
        then = before[name]
        if now.num_descriptors > then.num_descriptors + _MAX_MORE_DESCRIPTORS:
            found.append(f"{name}: {now.num_descriptors} descriptors, {then.num_descriptors} before")
        if now.num_threads > then.num_threads + _MAX_MORE_THREADS:
            found.append(f"{name}: {now.num_threads} threads, {then.num_threads} before")
    return found
