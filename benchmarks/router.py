"""The router alone: its processor time for a verdict, and how many verdicts a core makes a second, before services that answer at once.

    python -m benchmarks.router --sessions 1 8 32 --rounds 5
    python -m benchmarks.router --roots /path/to/another/commit .    # by turns

The router is the real process; a toy LLM service and a toy SSM service are two others, which know the next token from the last one and
keep no sessions. The LLM service answers all items under way together, as a model's pass does, each ``--pass-ms``; 0: as fast as its
stream takes them. Clients are this process. Incremental: one item asks for many steps, and each verdict is a message's result.
Drafted: each step asks the SSM service for a tree of 32 nodes, and the LLM service for a verdict of three tokens.
Counted are the verdicts of whole requests, and the processor time of the router's process between two moments at which it was idle:
what a request costs besides is spread over its verdicts, and with two cores or more nothing that the others do counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processor_time import cpu_s
from benchmarks.served import served
from specgrove.addresses import grpc_target
from specgrove.v1 import router_pb2, router_pb2_grpc

_WAYS = ("incremental", "drafted")
_PROMPT = "Tell me about trees."


@dataclass(frozen=True, slots=True)
class Load:
    """``num_sessions`` requests at once, each of ``num_tokens`` tokens, the next when one has ended."""

    way: str
    num_sessions: int
    pass_ms: float
    num_verdicts: int
    """About as many in all."""

    @property
    def num_tokens(self) -> int:
        """A request's: so many that what is not done for a verdict hardly counts, and so few that each session has one."""
        tokens_per_verdict = 1 if self.way == "incremental" else 3
        return max(min(900, self.num_verdicts * tokens_per_verdict // self.num_sessions), 30)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one round found."""

    cpu_us: float
    """The router's processor time for a verdict."""
    verdicts_per_s: float


@contextlib.contextmanager
def suite(root: Path, folder: Path, pass_ms: float) -> Iterator[tuple[str, int]]:
    """Starts the three processes, the router from the sources in ``root``: its address, and its process's id."""
    llm, ssm, router = (f"unix:{folder / name}.sock" for name in ("llm", "ssm", "router"))
    toys = ["-m", "benchmarks.router_toys"]
    commands = [
        [*toys, "llm", llm, str(pass_ms)],
        [*toys, "ssm", ssm],
        ["-m", "router", "--llm", llm, "--ssm", ssm, "--address", router, "--tree-policy", "static"],
    ]
    with served(commands, router, folder, root) as processes:
        yield router, processes[-1].pid


async def _run(stub: Any, load: Load) -> int:
    """Verdicts."""
    is_incremental = load.way == "incremental"
    request = router_pb2.GenerateRequest(
        text=_PROMPT,
        max_tokens=load.num_tokens,
        ignore_eos=True,
        speculation=router_pb2.SpeculationOptions(disabled=is_incremental),
    )
    num_steps = load.num_tokens if is_incremental else load.num_tokens // 3
    num_left = -(-load.num_verdicts // num_steps)

    async def ask() -> int:
        nonlocal num_left
        num_verdicts = 0
        while num_left > 0:
            num_left -= 1
            async for response in stub.Generate(request):
                num_verdicts += response.usage.num_verify_steps
        return num_verdicts

    return sum(await asyncio.gather(*(ask() for _ in range(load.num_sessions))))


async def measured(address: str, pid: int, load: Load) -> Cost:
    """One round."""
    async with grpc.aio.insecure_channel(grpc_target(address)) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        started_cpu_s, started_s = cpu_s(pid), time.perf_counter()
        num_verdicts = await _run(stub, load)
        elapsed_s = time.perf_counter() - started_s
        await asyncio.sleep(0.1)  # sessions are closed in the background
        return Cost((cpu_s(pid) - started_cpu_s) / num_verdicts * 1e6, num_verdicts / elapsed_s)


@contextlib.asynccontextmanager
async def _suites(roots: list[Path], pass_ms: float) -> AsyncIterator[list[tuple[str, int]]]:
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in roots]
        yield [stack.enter_context(suite(*both, pass_ms)) for both in zip(roots, folders, strict=True)]


async def measure(arguments: argparse.Namespace) -> None:
    """Prints a line for each load and each of the sources."""
    roots = [root.resolve() for root in arguments.roots]
    for pass_ms in arguments.pass_ms:
        async with _suites(roots, pass_ms) as suites:
            for way in arguments.ways:
                for num_sessions in arguments.sessions:
                    load = Load(way, num_sessions, pass_ms, arguments.verdicts)
                    costs: list[list[Cost]] = [[] for _ in roots]
                    for number in range(arguments.rounds + 1):
                        order = range(len(roots)) if number % 2 else reversed(range(len(roots)))
                        for place in order:
                            cost = await measured(*suites[place], load)
                            if number:  # the first warms up
                                costs[place].append(cost)
                    for root, found in zip(roots, costs, strict=True):
                        print(f"{_line(load, found)}  {root.name if len(roots) > 1 else ''}".rstrip(), flush=True)


def _line(load: Load, costs: list[Cost]) -> str:
    cpu_us = sorted(cost.cpu_us for cost in costs)
    rate = statistics.median(cost.verdicts_per_s for cost in costs)
    middle = statistics.median(cpu_us)
    return (
        f"{load.way:11s} {load.num_sessions:3d} sessions, a pass each {load.pass_ms:g} ms: {middle:5.0f} us of processor time "
        f"a verdict ({cpu_us[0]:.0f} to {cpu_us[-1]:.0f}), {1e6 / middle:5.0f} verdicts/s a core; {rate:5.0f} verdicts/s here"
    )


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--pass-ms", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--verdicts", type=int, default=6000, help="about as many in a round")
    parser.add_argument("--roots", type=Path, nargs="+", default=[Path()], help="sources of routers, which take turns")
    asyncio.run(measure(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
