"""A suite under load, as operators measure it: requests that come when they come, or clients that ask again and again.

    python -m benchmarks.load --per-s 0.5 1 2 --duration-s 60          # open loop
    python -m benchmarks.load --clients 1 8 32 128 --num-requests 64   # so many at once, each asks again when it has its answer
    python -m benchmarks.load --per-s 1 2 --check                      # beside what benchmarks.fleet says from measured times

Starts the real services. Prompts and outputs have mixed lengths, the same for all ways; outputs end at their length. Ways take turns:
incremental, speculative, and both with a shared prefix where ``--prefix`` asks for one. Reported are tokens a second, times to the first
token and between tokens (50, 95 and 99 %), and the share of requests that kept the limits.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from rich.console import Console

from benchmarks.fleet.__main__ import add_limits, outcome_cells, outcome_table, simulated
from benchmarks.fleet.simulation import FleetShape, Simulation, Speculation
from benchmarks.fleet.times import Rows, Times, rising
from benchmarks.fleet.workload import Arrival, Outcome, Served, Workload
from benchmarks.host import conditions
from benchmarks.processor_time import cpu_s
from benchmarks.rounds import Prompts
from benchmarks.serving import suite_config
from specgrove.client import AsyncClient
from specgrove.client.output import Usage
from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc

_NUM_ROUND_TRIPS = 100
_SHORT_LEN, _LONG_LEN, _NUM_CALIBRATED = 32, 800, 60  # tokens
_PROMPT_LENS = (32, 128, 256)
_NUM_PROMPTS = 3
_NUM_AT_ONCE = 8
SHORT, LONG = 0, 1
"""Places of two prompts for calibration, before those of the workload."""


@dataclass(frozen=True, slots=True)
class Way:
    """How requests are answered."""

    is_speculative: bool
    prefix: tuple[int, ...] = ()
    """Token ids that all prompts begin with."""

    @property
    def name(self) -> str:
        """As in the table."""
        return ("speculative" if self.is_speculative else "incremental") + (", prefix shared" if self.prefix else "")


class Asking:
    """Sends requests and notes when their tokens come. All times from ``start``."""

    def __init__(self, client: AsyncClient, prompts: list[list[int]]) -> None:
        self._client = client
        self._prompts = prompts
        self.start()

    def start(self) -> None:
        """Sets the clock to 0."""
        self._started_s = time.perf_counter()
        self.usages: list[Usage] = []

    async def ask(self, arrival: Arrival, way: Way) -> Served:
        """One request, at its time. Only a shared prefix is kept from one to the next. A longer prompt is cut off."""
        await asyncio.sleep(max(0.0, arrival.at_s - self._now_s()))
        prompt = [*way.prefix, *self._prompts[arrival.prompt][: arrival.prompt_len]]
        times_s: list[float] = []
        stream = self._client.generate(
            prompt,
            max_tokens=arrival.output_len,
            ignore_eos=True,
            speculation=SpeculationOptions(disabled=not way.is_speculative),
            cache_salt="shared" if way.prefix else uuid.uuid4().hex,
        )
        async for chunk in stream:
            times_s += [self._now_s()] * len(chunk.tokens)
            if chunk.usage is not None:
                self.usages.append(chunk.usage)
        return Served(arrival, tuple(times_s))

    async def open_loop(self, arrivals: list[Arrival], way: Way) -> list[Served]:
        """Each at its time, whatever became of the others."""
        self.start()
        return list(await asyncio.gather(*(self.ask(arrival, way) for arrival in arrivals)))

    async def closed_loop(self, arrivals: list[Arrival], num_clients: int, way: Way) -> list[Served]:
        """So many clients share the requests; the times of arrival don't count."""
        self.start()
        left = iter(arrivals)

        async def ask_on() -> list[Served]:
            found = []
            for arrival in left:
                now = Arrival(self._now_s(), arrival.prompt_len, arrival.output_len, arrival.prompt)
                found.append(await self.ask(now, way))
            return found

        return [served for each in await asyncio.gather(*(ask_on() for _ in range(num_clients))) for served in each]

    def _now_s(self) -> float:
        return time.perf_counter() - self._started_s


async def measured_times(suite: Suite, asking: Asking) -> Times:
    """What the simulation is fed with: by the services when they are idle, and by requests of one and of several clients."""
    async with grpc.aio.insecure_channel(suite.address_of("llm_service")) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel)
        warmup = await llm.Warmup(llm_pb2.LlmServiceWarmupRequest())
        trips_ms = []
        for _ in range(_NUM_ROUND_TRIPS):
            started_s = time.perf_counter()
            await llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest())
            trips_ms.append((time.perf_counter() - started_s) * 1e3)
    async with grpc.aio.insecure_channel(suite.address_of("ssm_service")) as channel:
        levels = await ssm_pb2_grpc.SsmServiceStub(channel).Warmup(ssm_pb2.SsmServiceWarmupRequest())
    passes = rising((each.num_rows, each.pass_ms) for each in warmup.pass_times)
    level_ms = rising((each.num_rows, each.pass_ms) for ssm in levels.ssms for each in ssm.pass_times) or ((1, 0.0),)
    bare = Times(passes, level_ms=level_ms, hop_ms=statistics.median(trips_ms) / 2)
    way = Way(is_speculative=False)
    router_pid = suite.pid("router")
    assert router_pid is not None, "the router is not there"
    router_s = cpu_s(router_pid)
    one_ms = statistics.median([await _gap_ms(asking, SHORT, 1, way) for _ in range(3)])
    verdict_ms = (cpu_s(router_pid) - router_s) * 1e3 / (3 * _NUM_CALIBRATED)
    several_ms = await _gap_ms(asking, SHORT, _NUM_AT_ONCE, way)
    long_ms = await _gap_ms(asking, LONG, 1, way)
    seen = _SHORT_LEN + _NUM_CALIBRATED // 2
    context_ms = max(0.0, (long_ms - one_ms) / (_LONG_LEN - _SHORT_LEN) * 1e3)
    bare = replace(
        bare, context_ms=context_ms, verdict_ms=verdict_ms, request_ms=verdict_ms
    )  # of the order of a verdict
    pass_overhead = max(0.0, one_ms - bare.pass_of(Rows(1, num_seen=seen)))
    rest_ms = several_ms - pass_overhead - bare.pass_of(Rows(_NUM_AT_ONCE, num_seen=_NUM_AT_ONCE * seen))
    work_overhead = max(0.0, rest_ms / _NUM_AT_ONCE)
    around_ms = pass_overhead + work_overhead + 2 * bare.hop_ms + bare.request_ms + bare.verdict_ms
    prompt_ms = rising(
        [(length, max(await _first_token_ms(asking, length, way) - around_ms, 0.1)) for length in _PROMPT_LENS]
    )
    times = replace(bare, pass_overhead_ms=pass_overhead, work_overhead_ms=work_overhead, prompt_ms=prompt_ms)
    return replace(times, prompt_context_ms=await _prompt_context_ms(asking, times, way))


async def _prompt_context_ms(asking: Asking, times: Times, way: Way) -> float:
    """From a long prompt, which is read in chunks: what is not explained by their rows."""
    found_ms = await _first_token_ms(asking, _LONG_LEN, way)
    [served] = Simulation(FleetShape(), times).run([Arrival(0.0, _LONG_LEN, 1, LONG)])
    chunk = FleetShape().max_num_chunk_tokens
    num_seen = sum(min(chunk, _LONG_LEN - start) * start for start in range(0, _LONG_LEN, chunk))
    return max(0.0, (found_ms - served.first_token_s * 1e3) / num_seen * 1e3)


async def _first_token_ms(asking: Asking, length: int, way: Way) -> float:
    """Of a prompt of so many tokens that comes alone, the median."""
    found = []
    for _ in range(_NUM_PROMPTS):
        [served] = await asking.open_loop([Arrival(0.0, length, 1, LONG)], way)
        found.append(served.first_token_s * 1e3)
    return statistics.median(found)


async def _gap_ms(asking: Asking, prompt: int, num_at_once: int, way: Way) -> float:
    """Between tokens, the median, of so many outputs at once."""
    length = (_SHORT_LEN, _LONG_LEN)[prompt]
    arrivals = [Arrival(0.0, length, _NUM_CALIBRATED, prompt)] * num_at_once
    served = await asking.open_loop(arrivals, way)
    return statistics.median(gap for each in served for gap in each.gaps_s) * 1e3


def speculation_of(usages: list[Usage]) -> Speculation | None:
    """What trees were like; ``None`` where there were hardly any."""
    num_steps = sum(usage.num_verify_steps for usage in usages)
    num_trees = sum(usage.drafted_by_depth[0] for usage in usages if usage.drafted_by_depth)
    if num_steps == 0 or num_trees < num_steps / 2:
        return None
    num_nodes = sum(usage.num_drafted_nodes for usage in usages) / num_trees
    levels = sum(sum(usage.drafted_by_depth) for usage in usages) / num_trees
    tokens = sum(usage.num_decided_tokens for usage in usages) / num_steps
    num_levels = max(1, round(levels))
    return Speculation(max(1, round(num_nodes)), num_levels, min(tokens, num_levels + 1.0))


def _prompts(long: list[int], lengths: list[int]) -> list[list[int]]:
    """Of these lengths, different ones; the two for calibration first."""
    found, start = [], 0
    for length in (_SHORT_LEN, _LONG_LEN, *lengths):
        if length > len(long):
            raise ValueError(f"there is text for prompts of {len(long)} tokens, not of {length}")
        start = start if start + length <= len(long) else 0
        found.append(long[start : start + length])
        start += length
    return found


def _loads(arguments: argparse.Namespace, lengths: list[int]) -> Iterator[tuple[str, Workload, int | None]]:
    """What is measured: its name, the workload, and the number of clients where each asks again and again."""
    outputs = tuple(arguments.output_lens)
    for per_s in arguments.per_s or ():
        yield f"{per_s:g} a second", Workload(per_s, tuple(lengths), outputs), None
    for num_clients in arguments.clients or ():
        yield f"{num_clients} clients", Workload(1.0, tuple(lengths), outputs), num_clients


def _shifted(arrivals: list[Arrival]) -> list[Arrival]:
    """Behind the two prompts for calibration."""
    return [Arrival(each.at_s, each.prompt_len, each.output_len, each.prompt + LONG + 1) for each in arrivals]


async def measure(suite: Suite, arguments: argparse.Namespace, prompts: list[list[int]], console: Console) -> None:
    """All loads, all ways by turns."""
    ways = [Way(is_speculative=False), Way(is_speculative=True)]
    if arguments.prefix:
        prefix = tuple((prompts[LONG] * (arguments.prefix // _LONG_LEN + 1))[: arguments.prefix])
        ways += [Way(way.is_speculative, prefix) for way in ways]
    limits = arguments.first_token_limit_s, arguments.token_limit_ms / 1e3
    client = AsyncClient(suite.address)
    try:
        asking = Asking(client, prompts)
        times = None
        if arguments.check or arguments.write_times:
            console.print("measuring the services by themselves")
            times = await measured_times(suite, asking)
            if arguments.write_times:
                times.write(arguments.write_times)
        for name, workload, num_clients in _loads(arguments, arguments.prompt_lens):
            table = outcome_table(name)
            for way in ways:
                console.print(f"{name}: {way.name}")
                if num_clients is None:
                    arrivals = _shifted(workload.arrivals(arguments.duration_s, arguments.seed))
                    served = await asking.open_loop(arrivals, way)
                else:
                    arrivals = _shifted(workload.arrivals(max(arguments.num_requests, 2 * num_clients), arguments.seed))
                    served = await asking.closed_loop(arrivals, num_clients, way)
                found = Outcome.of(served, *limits)
                table.add_row(way.name, *outcome_cells(found))
                if times is not None and arguments.check and num_clients is None and not way.prefix:
                    speculation = speculation_of(asking.usages) if way.is_speculative else None
                    if way.is_speculative and speculation is None:
                        continue  # hardly any trees: the first line again
                    said, _ = simulated(FleetShape(), times, speculation, workload, arguments)
                    table.add_row("  simulated", *outcome_cells(said))
                    table.add_row("  measured / simulated", "", *_ratios(found, said))
            console.print(table)
    finally:
        await client.close()


def _ratios(found: Outcome, said: Outcome) -> list[str]:
    pairs = [(found.first_token_ms, said.first_token_ms), (found.token_ms, said.token_ms), (found.gap_ms, said.gap_ms)]
    cells = [" / ".join(f"{a / b:.2f}" if b else "-" for a, b in zip(*pair, strict=True)) for pair in pairs]
    return [f"{found.tokens_per_s / said.tokens_per_s:.2f}", *cells, ""]


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--per-s", type=float, nargs="+", help="requests a second, open loop")
    add("--clients", type=int, nargs="+", help="so many at once, closed loop")
    add("--duration-s", type=float, default=60.0, help="in which requests come, open loop")
    add("--num-requests", type=int, default=64, help="about so many, closed loop; at least two for each client")
    add("--prompt-lens", type=int, nargs="+", default=[40, 80, 160, 400])
    add("--output-lens", type=int, nargs="+", default=[30, 60, 120])
    add("--prefix", type=int, default=0, help="tokens that all prompts begin with, in two more ways")
    add("--precision", default="bfloat16", choices=("float32", "bfloat16", "int8", "int4"))
    add("--llm", default=DEMO_LLM)
    add("--ssm", action="append", help="as for `specgrove serve`; repeatable")
    add("--seed", type=int, default=0)
    add("--check", action="store_true", help="simulate the same requests from measured times, and print ratios")
    add("--write-times", type=Path, help="what benchmarks.fleet reads")
    add("--cache-dir", type=Path, default=default_cache_dir())
    add_limits(parser)
    return parser.parse_args(command_line)


def main() -> int:
    """Exit code 0."""
    arguments = parse_arguments()
    if not (arguments.per_s or arguments.clients or arguments.write_times):
        sys.exit("python -m benchmarks.load: nothing to measure: give --per-s, --clients or --write-times")
    console = Console(width=150 if not sys.stdout.isatty() else None, soft_wrap=True)
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=console.print)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS_ON_CPU
    try:
        prompts = _prompts(Prompts.of(folder, "alpaca").long, arguments.prompt_lens)
    except ValueError as error:
        sys.exit(f"python -m benchmarks.load: {error}")
    with Suite(suite_config(folder, ssms, arguments.precision)) as suite:
        asyncio.run(measure(suite, arguments, prompts, console))
    facts = conditions() | {"model": f"{folder.name} in {arguments.precision}, SSMs {' '.join(ssms)}"}
    console.print(", ".join(facts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
