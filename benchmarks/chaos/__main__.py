"""Kills real services under real clients, from a seed, and compares every output with the undisturbed one.

    python -m benchmarks.chaos --seed 1 --kills 100

Two routers, two LLM services and an SSM service over a tiny random model, on this machine. Any process gets SIGKILL, SIGTERM, or SIGSTOP
and SIGCONT at any moment; links between them are delayed, stalled, cut and half-closed. Clients stay, read slowly, cancel, vanish, have no
time, or come thirty at once. At the end it counts what is left over. Ends with 1 where an output is lost, repeated or changed, or
something leaks.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.faults import Harm, faults
from benchmarks.chaos.fleet import Fleet, FleetShape
from benchmarks.chaos.leaks import held_by_fleet, leaks
from benchmarks.chaos.load import Load, Outcomes, cases
from specgrove.suite.supervisor import LogLine

# Starting is waited for, however busy the machine is.
_READY_S = 1800.0
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """Of one run."""

    seed: int = 0
    num_kills: int = 20
    num_clients: int = 8
    num_cases: int = 24
    mean_pause_s: float = 1.0
    shape: FleetShape = field(default_factory=FleetShape)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    harm: dict[str, int]
    num_kills: int
    num_restarts: int
    outcomes: Outcomes
    leaks: list[str]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Nothing lost, repeated, changed or left over."""
        return not self.outcomes.faults and not self.leaks

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"{self.num_kills} kills in {self.seconds:.0f} s, {self.num_restarts} restarts; {self.outcomes.num_outputs} outputs, "
            f"{len(self.outcomes.faults)} wrong; {len(self.leaks)} leaks"
        ]
        found += [f"  {name}: {count}" for name, count in sorted(self.harm.items())]
        found += [f"  {name}: {count}" for name, count in sorted(self.outcomes.counts.items())]
        found += [f"  WRONG: {problem}" for problem in self.outcomes.faults]
        return found + [f"  LEFT OVER: {leak}" for leak in self.leaks]


async def run(model: Path, options: Options, log_line: LogLine) -> Report:
    """One run over the model in a folder, which must be one of bytes."""
    started_s = time.monotonic()
    async with Fleet(model, options.shape, log_line) as fleet:
        await fleet.wait_ready(_READY_S)
        load = Load(fleet, cases(options.seed, options.num_cases), options.seed, options.num_clients)
        await load.learn()
        before = held_by_fleet(fleet)
        harm = Harm(fleet)
        running = asyncio.create_task(load.run())
        for fault in faults(options.seed, fleet, options.mean_pause_s):
            if harm.num_kills >= options.num_kills or running.done():
                break
            await asyncio.sleep(fault.pause_s)
            harm.do(fault)
        await harm.end()
        load.stop()
        await running
        await fleet.wait_ready(_READY_S)
        left_over = await leaks(fleet, before, _IDLE_S)
        num_restarts = fleet.num_restarts()
    return Report(
        dict(harm.counts), harm.num_kills, num_restarts, load.outcomes, left_over, time.monotonic() - started_s
    )


def log_to(path: Path | None) -> LogLine:
    """Lines of the services, each with its name, to a file."""
    if path is None:
        return lambda name, line: None
    file = path.open("a", buffering=1)
    return lambda name, line: print(f"{time.time():.2f} {name}: {line}", file=file)


def main() -> int:
    """The exit code."""
    from tests.conftest import save_byte_llama

    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="Kills services under load.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20, help="signals to processes (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at a time (default: %(default)s)")
    parser.add_argument("--pause-s", type=float, default=1.0, help="mean time between faults (default: %(default)s)")
    parser.add_argument(
        "--kv-slots", type=int, default=FleetShape().num_kv_slots, help="of each LLM service (default: %(default)s)"
    )
    parser.add_argument("--log", type=Path, help="file for the services' lines")
    given = parser.parse_args()
    shape = FleetShape(num_kv_slots=given.kv_slots)
    options = Options(given.seed, given.kills, given.clients, mean_pause_s=given.pause_s, shape=shape)
    with tempfile.TemporaryDirectory(prefix="specgrove-chaos-") as folder:
        report = asyncio.run(run(save_byte_llama(Path(folder)), options, log_to(given.log)))
    print("\n".join([f"seed {given.seed}: " + report.lines()[0], *report.lines()[1:]]))
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
