"""Keeps a mixed load with few kills up for long, and watches memory, descriptors and threads of every process.

    python -m benchmarks.soak --minutes 60

The fleet, the clients and the faults are those of ``benchmarks.chaos``; here processes live for minutes. Ends with 1 where an output is
wrong, something is left over, or the memory of a process that lived through the second half of the run has grown by more than 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.chaos.__main__ import log_to
from benchmarks.chaos.faults import Harm, faults
from benchmarks.chaos.fleet import Fleet, FleetShape
from benchmarks.chaos.leaks import Held, held_by, held_by_fleet, leaks
from benchmarks.chaos.load import Load, cases
from specgrove.suite.supervisor import LogLine

# Starting is waited for, however busy the machine is.
_READY_S = 1800.0
_IDLE_S = 60.0
_MAX_GROWTH = 0.02
# Of the tiny processes here; pages that the allocator keeps are no leak.
_LEAST_GROWTH_MIB = 4.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process held, ``at_s`` after the start."""

    at_s: float
    name: str
    pid: int
    held: Held


def growth(samples: list[Sample]) -> list[str]:
    """In words, processes whose memory has grown: medians of the first and the last quarter of what a process was seen for.

    Only those that lived for half of the run at least; the first tenth of the run is for warming up.
    """
    end_s = max((sample.at_s for sample in samples), default=0.0)
    found = []
    for pid in sorted({sample.pid for sample in samples}):
        seen = [sample for sample in samples if sample.pid == pid and sample.at_s > end_s / 10]
        if len(seen) < 8 or seen[-1].at_s - seen[0].at_s < end_s / 2:
            continue
        quarter = len(seen) // 4
        before, after = (median(sample.held.rss_mib for sample in part) for part in (seen[:quarter], seen[-quarter:]))
        if after - before > max(_MAX_GROWTH * before, _LEAST_GROWTH_MIB):
            found.append(f"{seen[0].name} (pid {pid}) grew from {before:.1f} to {after:.1f} MiB")
    return found


async def watch(fleet: Fleet, samples: list[Sample], interval_s: float, log: Callable[[str], None]) -> None:
    """Until cancelled."""
    started_s = time.monotonic()
    while True:
        at_s = time.monotonic() - started_s
        for name in fleet.names:
            if (pid := fleet.pid(name)) is not None:
                try:
                    samples.append(Sample(at_s, name, pid, held_by(pid)))
                except OSError:  # it has just ended
                    continue
        newest = {sample.name: sample.held for sample in samples if sample.at_s == at_s}
        log(
            f"{at_s:.0f} s: "
            + ", ".join(f"{name} {held.rss_mib:.0f} MiB {held.num_descriptors} fd" for name, held in newest.items())
        )
        await asyncio.sleep(interval_s)


async def soak(
    model: Path, *, seconds: float, seed: int, mean_pause_s: float, log_line: LogLine, log: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """What happened, and what is wrong, in words."""
    async with Fleet(model, FleetShape(), log_line) as fleet:
        await fleet.wait_ready(_READY_S)
        load = Load(fleet, cases(seed, 24), seed, num_clients=6)
        await load.learn()
        before, samples, harm = held_by_fleet(fleet), list[Sample](), Harm(fleet)
        watching = asyncio.create_task(watch(fleet, samples, max(seconds / 120, 1.0), log))
        running = asyncio.create_task(load.run())
        until_s = time.monotonic() + seconds
        for fault in faults(seed, fleet, mean_pause_s, max_pause_s=10 * mean_pause_s):
            # A third of the processes is left alone, so that they show what becomes of one that lives long.
            if fault.is_of_process and fault.victim[0].endswith("-1"):
                continue
            await asyncio.sleep(min(fault.pause_s, max(until_s - time.monotonic(), 0.0)))
            if time.monotonic() >= until_s or running.done():
                break
            harm.do(fault)
        await harm.end()
        load.stop()
        await running
        watching.cancel()
        await fleet.wait_ready(_READY_S)
        wrong = [*load.outcomes.faults, *growth(samples), *await leaks(fleet, before, _IDLE_S)]
    counts = [f"{name}: {count}" for name, count in sorted((*harm.counts.items(), *load.outcomes.counts.items()))]
    return [f"{harm.num_kills} kills, {load.outcomes.num_outputs} outputs", *counts], wrong


def main() -> int:
    """The exit code."""
    from tests.conftest import save_byte_llama

    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="A mixed load with kills, for long.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause-s", type=float, default=20.0, help="mean time between faults (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="file for the services' lines")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="specgrove-soak-") as folder:
        running = soak(
            save_byte_llama(Path(folder)), seconds=given.minutes * 60, seed=given.seed, mean_pause_s=given.pause_s,
            log_line=log_to(given.log), log=lambda line: print(line, flush=True),
        )  # fmt: skip
        told, wrong = asyncio.run(running)
    print("\n".join([*told, *(f"WRONG: {problem}" for problem in wrong)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
