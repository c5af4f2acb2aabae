"""A suite under load, as operators measure it: requests that come when they come, or clients that ask again and again.

    python -m benchmarks.load --per-s 0.5 1 2 --duration-s 60          # open loop
    python -m benchmarks.load --clients 1 8 32 128 --num-requests 64   # so many at once, each asks again when it has its answer
    python -m benchmarks.load --per-s 1 2 --check                      # beside what benchmarks.fleet says from measured times
    python -m benchmarks.load --clients 32 128 --rounds 5 --vllm-python PYTHON    # beside vLLM, which that interpreter has

Starts the real services. Prompts and outputs have mixed lengths, the same for all ways; outputs end at their length. Ways take turns:
incremental, speculative, other servers, and all of them with a shared prefix where ``--prefix`` asks for one. Each first answers a few
requests that don't count. Reported are tokens a second, times to the first token and between tokens (50, 95 and 99 %), the share of
requests that kept the limits, and ratios of ours to the others', all as medians over ``--rounds``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.fleet.__main__ import add_limits, outcome_cells, outcome_table
from benchmarks.fleet.calibration import LONG, LONG_LEN
from benchmarks.fleet.comparison import ratio_words, ratios
from benchmarks.fleet.shape import FleetShape
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.times import Times, mean_of
from benchmarks.fleet.workload import Outcome, Served, Workload
from benchmarks.host import conditions
from benchmarks.load.asking import AskingError, prompts_of
from benchmarks.load.calibration import measured_times, speculation_of
from benchmarks.load.over_grpc import OverGrpc
from benchmarks.load.over_openai import OverOpenAi
from benchmarks.load.turns import Limits, Load, Way, by_turns, median_of, own_prompts, ratio_cells, ratio_rows
from benchmarks.load.vllm_server import VllmConfig, found_vllm, vllm_started
from benchmarks.processor_time import cpu_s
from benchmarks.rounds import Prompts
from benchmarks.serving import suite_config
from specgrove.client import AsyncClient
from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.models.folders.model_files import gguf_of
from specgrove.settings.ssm_specs import asks_for_none, parse_ssms
from specgrove.suite.processes import Suite, SuiteConfig

_PROGRAM = "python -m benchmarks.load"
_MIN_NUM_AT_ONCE = 128
_MIN_MODEL_LEN = 2048


def loads_of(arguments: argparse.Namespace) -> Iterator[tuple[Load, Workload]]:
    """What is measured, and the workload that it was made of."""
    prompts, outputs = tuple(arguments.prompt_lens), tuple(arguments.output_lens)
    for per_s in arguments.per_s or ():
        workload = Workload(per_s, prompts, outputs)
        arrivals = workload.arrivals(arguments.duration_s, arguments.seed)
        yield Load(f"{per_s:g} a second", own_prompts(arrivals), None), workload
    for num_clients in arguments.clients or ():
        workload = Workload(1.0, prompts, outputs)
        arrivals = workload.arrivals(max(arguments.num_requests, 2 * num_clients), arguments.seed)
        yield Load(f"{num_clients} clients", own_prompts(arrivals), num_clients), workload


def _num_at_once(arguments: argparse.Namespace) -> int:
    """So many requests every server has room for."""
    clients: list[int] = arguments.clients or []
    return max([_MIN_NUM_AT_ONCE, *clients])


def suite_config_of(folder: Path, ssms: tuple[str, ...], arguments: argparse.Namespace) -> SuiteConfig:
    """All clients are let in at once, as they are by other servers; beside one, keys and values have as much memory as there."""
    config = suite_config(folder, ssms, arguments.precision)
    num_clients = _num_at_once(arguments)
    router = ("--max-requests", str(num_clients), "--max-requests-per-connection", str(num_clients))
    kv = ("--kv-memory", f"{arguments.kv_gib}GiB") if arguments.vllm_python or arguments.openai_url else ()
    return replace(config, router_arguments=router, llm_arguments=(*config.llm_arguments, *kv))


def _services_cpu_s(suite: Suite, ssms: Sequence[str]) -> float:
    names = ("router", "llm_service", *(("ssm_service",) if ssms else ()))
    return sum(cpu_s(pid) for name in names if (pid := suite.pid(name)) is not None)


def _simulated(
    ways: Sequence[Way], workload: Workload, times: Times, arguments: argparse.Namespace
) -> dict[str, list[Served]]:
    """What becomes of the same requests in virtual time, by our ways' names; a way that hardly drafted is the incremental one again."""
    found = {}
    for way in ways:
        if not isinstance(way.asking, OverGrpc):
            continue
        speculation = speculation_of(way.asking.usages) if way.asking.is_speculative else None
        if way.asking.is_speculative and speculation is None:
            continue
        simulation = Simulation(FleetShape(), times, speculation, arguments.seed)
        found[way.name] = simulation.run(workload.arrivals(arguments.duration_s, arguments.seed))
    return found


async def measure(
    suite: Suite,
    ssms: Sequence[str],
    others: Sequence[OverOpenAi],
    loads: Sequence[tuple[Load, Workload]],
    arguments: argparse.Namespace,
    prompts: list[list[int]],
    console: Console,
) -> None:
    """All loads, all ways by turns."""
    limits = Limits(arguments.first_token_limit_s, arguments.token_limit_ms / 1e3)
    async with AsyncClient(suite.address) as client:
        prefixes: list[tuple[int, ...]] = [()]
        if arguments.prefix:
            prefixes.append(tuple((prompts[LONG] * (arguments.prefix // LONG_LEN + 1))[: arguments.prefix]))
        precision = arguments.precision if others else None
        ways = []
        for prefix in prefixes:
            ours = [
                OverGrpc(client, prompts, is_speculative=is_speculative, precision=precision)
                for is_speculative in (False, True)
            ]
            ways += [Way(asking, prefix) for asking in (*ours, *others)]
        own = OverGrpc(client, prompts, is_speculative=False)
        times = None
        if arguments.check or arguments.write_times:
            console.print("measuring the services by themselves")
            times = await measured_times(suite, own)
            if arguments.write_times:
                times.write(arguments.write_times)
        for load, workload in loads:
            outcomes = await by_turns(
                load, ways, arguments.rounds, limits, lambda: _services_cpu_s(suite, ssms), console.print
            )
            simulations: dict[str, list[Served]] = {}
            if times is not None and arguments.check and load.num_clients is None:
                # A machine's speed changes within minutes: what requests tell is measured before and after.
                before, times = times, await measured_times(suite, own)
                simulations = _simulated(ways, workload, mean_of([before, times]), arguments)
            over = f", medians of {arguments.rounds} rounds" if arguments.rounds > 1 else ""
            table = outcome_table(load.name + over)
            for way, of_way in zip(ways, outcomes, strict=True):
                found = median_of(of_way)
                table.add_row(way.name, *outcome_cells(found))
                if (same := simulations.get(way.name)) is None:
                    continue
                said = Outcome.of(same, limits.first_token_s, limits.token_s)
                table.add_row("  simulated", *outcome_cells(said))
                table.add_row("  measured ÷ simulated", *ratio_cells([found], [said]))
                console.print(f"{load.name}: {way.name}: {ratio_words(ratios(way.asking.served, same))}")
            for row in ratio_rows(ways, outcomes):
                table.add_row(*row)
            console.print(table)


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--per-s", type=float, nargs="+", help="requests a second, open loop")
    add("--clients", type=int, nargs="+", help="so many at once, closed loop")
    add("--duration-s", type=float, default=60.0, help="in which requests come, open loop")
    add("--num-requests", type=int, default=64, help="about so many, closed loop; at least two for each client")
    add("--rounds", type=int, default=1, help="so often each way answers each load, by turns; medians count")
    add("--prompt-lens", type=int, nargs="+", default=[40, 80, 160, 400])
    add("--output-lens", type=int, nargs="+", default=[30, 60, 120])
    add("--prefix", type=int, default=0, help="tokens that all prompts begin with, in further ways")
    add("--precision", default="bfloat16", choices=("float32", "bfloat16", "int8", "int4"))
    add("--llm", default=DEMO_LLM)
    add("--ssm", action="append", help="as for `specgrove serve`; repeatable")
    add("--vllm-python", metavar="PYTHON", help="an interpreter with vLLM's CPU build, which serves the same")
    add(
        "--vllm-argument", metavar="WORD", action="append", default=[],
        help="a further word of vLLM's command line, as --vllm-argument=--max-num-batched-tokens=512; repeatable",
    )  # fmt: skip
    add(
        "--vllm-dtype",
        nargs="+",
        default=["bfloat16", "float32"],
        choices=("bfloat16", "float32"),
        help="a vLLM of each",
    )
    add(
        "--openai-url", metavar="URL", action="append", default=[],
        help="a server with OpenAI's API that runs already, with the same model as its first one; it should be idle otherwise; repeatable",
    )  # fmt: skip
    add("--kv-gib", type=int, default=4, help="memory of keys and values beside other servers, ours and vLLM's")
    add("--seed", type=int, default=0)
    add("--check", action="store_true", help="simulate the same requests from measured times, and print ratios")
    add("--write-times", type=Path, help="what benchmarks.fleet reads")
    add("--cache-dir", type=Path, default=default_cache_dir())
    add_limits(parser)
    arguments = parser.parse_args(command_line)
    if not (arguments.per_s or arguments.clients or arguments.write_times):
        parser.error("nothing to measure: give --per-s, --clients or --write-times")
    if arguments.rounds < 1 or arguments.kv_gib < 1 or min(arguments.clients or [1]) < 1:
        parser.error("--rounds, --kv-gib and --clients must be 1 or more")
    if arguments.check and arguments.rounds > 1:
        parser.error("--check compares the requests of one round: leave --rounds out")
    if arguments.check and arguments.prefix:
        parser.error("--check simulates no prefixes: leave --prefix out")
    try:
        ssms = [] if asks_for_none(arguments.ssm or ()) else parse_ssms(arguments.ssm or ())
    except ValueError as error:
        parser.error(str(error))
    learning = [ssm.name for ssm in ssms if ssm.corpus or ssm.mode == "recycle"]
    if learning and (arguments.vllm_python or arguments.openai_url):
        parser.error(
            f"SSM {', '.join(learning)}: it learns from a turn's outputs, and the next has the same; leave it out beside other servers"
        )
    return arguments


def _run(arguments: argparse.Namespace, console: Console) -> None:
    """Whatever can be found wrong at once is, before anything is loaded. Raises ``ValueError`` and ``AskingError``."""
    python, version = found_vllm(arguments.vllm_python) if arguments.vllm_python else (None, None)
    loads = list(loads_of(arguments))
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=console.print)
    ssms = tuple(arguments.ssm) if arguments.ssm else DEFAULT_SSMS_ON_CPU
    num_prompts = max((len(load.arrivals) for load, _ in loads), default=0)
    # Requests that want a shorter one cut it off.
    prompts = prompts_of(Prompts.of(folder, "alpaca").long, [max(arguments.prompt_lens)] * num_prompts)
    others = [asyncio.run(OverOpenAi.at(url, prompts)) for url in arguments.openai_url]
    configs = []
    if python is not None and version is not None:
        if gguf_of(folder) is not None:
            raise ValueError(f"vLLM can't read {folder}: it is made of a GGUF file; leave --vllm-python out")
        longest = arguments.prefix + max(arguments.prompt_lens) + max(arguments.output_lens)
        configs = [
            VllmConfig(
                python=python,
                version=version,
                folder=folder.absolute(),
                dtype=dtype,
                max_num_seqs=_num_at_once(arguments),
                max_model_len=max(_MIN_MODEL_LEN, longest),
                kv_gib=arguments.kv_gib,
                has_prefix_cache=arguments.prefix > 0,
                further=tuple(arguments.vllm_argument),
            )
            for dtype in arguments.vllm_dtype
        ]
    with contextlib.ExitStack() as running:
        for config in configs:
            console.print(f"starting {config.name}")
            others.append(running.enter_context(vllm_started(config, prompts)))
        console.print("starting the suite")
        suite = running.enter_context(Suite(suite_config_of(folder, ssms, arguments)))
        asyncio.run(measure(suite, ssms, others, loads, arguments, prompts, console))
    beside = "".join(f", beside {other.name}" for other in others)
    if configs:
        beside += f" with {configs[0].environment()['OMP_NUM_THREADS']} threads"
    facts = conditions() | {"model": f"{folder.name} in {arguments.precision}, SSMs {' '.join(ssms)}{beside}"}
    console.print(", ".join(facts.values()))


def main() -> int:
    """Exit code 0."""
    arguments = parse_arguments()
    console = Console(width=170 if not sys.stdout.isatty() else None, soft_wrap=True, highlight=False, markup=False)
    # What was started ends in good order then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _run(arguments, console)
    except (AskingError, ValueError) as error:
        sys.exit(f"{_PROGRAM}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
