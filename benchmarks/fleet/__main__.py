"""What a fleet would do under a load, simulated from times measured on one machine of it.

    python -m benchmarks.load --write-times times.json                      # measure, on a machine like those of the fleet
    python -m benchmarks.fleet --times times.json --per-day 1000000 --llms 4 8 --ssms 2 --tree 7 3 2.1

Prints a line for each number of LLM replicas: tokens a second, times to the first token and between tokens, how busy the services are, and
the share of the requests that kept the limits. Requests come at random and have lengths of the given lists.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.fleet.shape import ENDLESS, FleetShape, Speculation
from benchmarks.fleet.simulation import Busy, Simulation
from benchmarks.fleet.times import Times
from benchmarks.fleet.workload import S_PER_DAY, Outcome, Workload


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What a request must keep to count as good."""
    parser.add_argument("--first-token-limit-s", type=float, default=1.0)
    parser.add_argument(
        "--token-limit-ms", type=float, default=100.0, help="mean time of an output token after the first"
    )


def simulated(
    shape: FleetShape, times: Times, speculation: Speculation | None, workload: Workload, arguments: argparse.Namespace
) -> tuple[Outcome, Busy]:
    """One run."""
    simulation = Simulation(shape, times, speculation, arguments.seed)
    served = simulation.run(workload.arrivals(arguments.duration_s, arguments.seed))
    return Outcome.of(served, arguments.first_token_limit_s, arguments.token_limit_ms / 1e3), simulation.busy


def outcome_table(title: str) -> Table:
    """For ``outcome_cells``, behind a first column of the caller's."""
    table = Table(title=title)
    for column in ("", "requests", "tokens/s", "first token ms", "token ms", "between tokens ms", "good"):
        table.add_column(column, justify="right" if column else "left")
    return table


def outcome_cells(outcome: Outcome) -> list[str]:
    """Times are those that 50, 95 and 99 % don't exceed."""
    times = (outcome.first_token_ms, outcome.token_ms, outcome.gap_ms)
    cells = [" / ".join(f"{value:.0f}" for value in each) for each in times]
    return [str(outcome.num_requests), f"{outcome.tokens_per_s:.0f}", *cells, f"{outcome.goodput:.0%}"]


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--times", type=Path, required=True, help="measured times: benchmarks.load writes them")
    rate = parser.add_mutually_exclusive_group(required=True)
    rate.add_argument("--per-day", type=float, help="requests a day, evenly spread")
    rate.add_argument("--per-s", type=float, help="requests a second")
    add("--routers", type=int, default=1)
    add("--llms", type=int, nargs="+", default=[1], help="LLM replicas; a line for each number")
    add("--ssms", type=int, default=1, help="SSM replicas")
    add("--slots", type=int, default=ENDLESS, help="KV slots of an LLM replica")
    add("--stream-interval-ms", type=float, default=FleetShape().stream_interval_ms, help="the LLM service's setting")
    add("--passes-ahead", action="store_true", help="LLM replicas begin a pass before the last one's end: on GPUs")
    add(
        "--tree", type=float, nargs=3, metavar=("NODES", "LEVELS", "TOKENS"),
        help="speculation: nodes and levels of a tree, and tokens that a step gives; without it decoding is incremental",
    )  # fmt: skip
    add("--prompt-lens", type=int, nargs="+", default=[40, 80, 160, 600])
    add("--output-lens", type=int, nargs="+", default=[60, 120, 240])
    add("--duration-s", type=float, default=300.0, help="of virtual time in which requests come")
    add("--seed", type=int, default=0)
    add_limits(parser)
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> int:
    """Exit code 0."""
    arguments = parse_arguments(command_line)
    console = Console(width=150 if not sys.stdout.isatty() else None, soft_wrap=True)
    try:
        times = Times.read(arguments.times)
        per_s = arguments.per_s if arguments.per_day is None else arguments.per_day / S_PER_DAY
        workload = Workload(per_s, tuple(arguments.prompt_lens), tuple(arguments.output_lens))
        tree = arguments.tree
        speculation = None if tree is None else Speculation(int(tree[0]), int(tree[1]), tree[2])
        shape = FleetShape(
            arguments.routers,
            num_ssms=arguments.ssms,
            num_slots=arguments.slots,
            stream_interval_ms=arguments.stream_interval_ms,
            has_passes_ahead=arguments.passes_ahead,
        )
        shapes = [replace(shape, num_llms=num_llms) for num_llms in arguments.llms]
    except (OSError, ValueError) as error:
        sys.exit(f"python -m benchmarks.fleet: {error}")
    table = outcome_table(f"{per_s:g} requests a second for {arguments.duration_s:g} s, simulated")
    table.add_column("busy: routers, LLMs, SSMs", justify="right")
    for shape in track(shapes, "simulating", console=console, transient=True):
        try:
            outcome, busy = simulated(shape, times, speculation, workload, arguments)
        except ValueError as error:
            sys.exit(f"python -m benchmarks.fleet: {error}")
        shares = f"{busy.routers:.0%} {busy.llms:.0%} {busy.ssms:.0%}"
        table.add_row(f"{shape.num_llms} LLM replicas", *outcome_cells(outcome), shares)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
