"""What goes wrong, from a seed: signals to processes, and harm to links. The sequence is the seed's; what it hits depends on the moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.links import Link

_MAX_STOPPED_S = 4.0
_MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``victim`` is a process, or the two ends of a link; ``seconds`` are of faults that last; ``pause_s`` comes before it."""

    kind: str
    victim: tuple[str, ...]
    seconds: float
    pause_s: float

    @property
    def is_of_process(self) -> bool:
        """Whether it is a signal."""
        return self.kind in SIGNALS


SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
_WEIGHTS = {"kill": 9, "term": 3, "stop": 3, "delay": 2, "cut": 2, "half-close": 1, "stall": 1}


def faults(seed: int, fleet: Fleet, mean_pause_s: float, *, max_pause_s: float = _MAX_PAUSE_S) -> Iterator[Fault]:
    """Without end; the same for the same seed and shape of fleet."""
    random = Random(seed)
    links = sorted(fleet.links)
    while True:
        (kind,) = random.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))
        victim = (random.choice(fleet.names),) if kind in SIGNALS else random.choice(links)
        seconds = random.uniform(0.1, _MAX_STOPPED_S)
        yield Fault(kind, victim, seconds, min(random.expovariate(1 / mean_pause_s), max_pause_s))


class Harm:
    """Does faults to a fleet, and counts them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lasting: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        """By kind and victim, e.g. ``kill router-1``."""

    @property
    def num_kills(self) -> int:
        """Signals that met a process."""
        return sum(count for name, count in self.counts.items() if name.partition(" ")[0] in SIGNALS)

    def do(self, fault: Fault) -> None:
        """Returns at once; what lasts ends by itself. A process that isn't there is left alone."""
        if fault.is_of_process:
            (name,) = fault.victim
            if (pid := self._fleet.pid(name)) is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGNALS[fault.kind])
                self.counts[f"{fault.kind} {name}"] += 1
            if fault.kind == "stop":
                self._last(self._go_on(pid, fault.seconds))
            return
        link = self._fleet.links[fault.victim[0], fault.victim[1]]
        self.counts[f"{fault.kind} link"] += 1
        if fault.kind == "cut":
            link.cut()
        elif fault.kind == "half-close":
            link.half_close()
        else:
            self._last(self._slow(link, fault))

    async def end(self) -> None:
        """Waits until everything is as it should be."""
        await asyncio.gather(*self._lasting)

    def _last(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    async def _go_on(self, pid: int, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _slow(self, link: Link, fault: Fault) -> None:
        if fault.kind == "stall":
            link.stall()
        else:
            link.delay_s = fault.seconds / 20
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            link.flow()
