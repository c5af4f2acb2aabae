"""What one client's requests do to another's stream: the largest gap between two of its pieces, and what the router's event loop took.

    python -m benchmarks.strangers --seconds 6 --kinds text chat flood

The router is the real process, with the tokenizer of a real model (``--model``); the LLM service is a toy that answers each
``--pass-ms``, so nothing but the router makes a stream wait. One client streams, without speculation. Another process sends the worst
requests of a kind as fast as it gets answers (``benchmarks.strangers.attacks`` lists the kinds). Told are the stream's gaps by the
clock, and the largest processor time of one turn of the router's event loop, which does not depend on what else the machine does.

Where processes are more than cores a stream waits for a core, too. So a second stream runs at the same time, through another router
that nobody troubles: what the first has more than that is what the strangers do to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.served import served
from benchmarks.strangers.attacks import ATTACKS
from specgrove.addresses import grpc_target
from specgrove.config import DEFAULT_LLM
from specgrove.v1 import router_pb2, router_pb2_grpc
from tests.addresses import free_address

_LIMIT_MS = 50.0


@dataclass(frozen=True, slots=True)
class Router:
    """The one that is measured."""

    address: str
    http_address: str
    pid: int
    record: Path

    def longest_turn(self) -> tuple[float, str]:
        """Of the event loop since the last time: milliseconds of processor time, and whose it was."""
        self.record.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        while not self.record.exists():  # when the loop's thread comes to it
            time.sleep(0.01)
        spent_ms, _, who = self.record.read_text().partition(" ")
        return float(spent_ms), who


@contextlib.contextmanager
def suite(folder: Path, model: Path, pass_ms: float) -> Iterator[Router]:
    """Starts a toy and a router before it."""
    folder.mkdir()
    llm, router, record, http = (
        f"unix:{folder}/llm.sock",
        f"unix:{folder}/router.sock",
        folder / "record",
        free_address(),
    )
    flags = [
        "--llm",
        llm,
        "--address",
        router,
        "--http-address",
        http,
        "--http-chat-page",
        "off",
        "--log-level",
        "ERROR",
    ]
    commands = [
        ["-m", "benchmarks.router_toys", "llm", llm, str(pass_ms), str(model)],
        ["-m", "benchmarks.strangers.router", str(record), *flags],
    ]
    with served(commands, router, folder) as processes:
        yield Router(router, http, processes[-1].pid, record)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Between two pieces of a stream, in milliseconds, rising."""

    ms: tuple[float, ...]

    def __str__(self) -> str:
        num_long = sum(gap > _LIMIT_MS for gap in self.ms)
        return f"{self.ms[-1]:.0f} ms (p99 {self.ms[int(len(self.ms) * 0.99)]:.0f}, {num_long} above {_LIMIT_MS:.0f})"


async def gaps_of(address: str, seconds: float) -> Gaps:
    """Of a stream through the router at ``address``."""
    request = router_pb2.GenerateRequest(
        text="Tell me about trees.",
        max_tokens=90_000,
        ignore_eos=True,
        speculation=router_pb2.SpeculationOptions(disabled=True),
    )
    found, until_s, last_s = [], time.monotonic() + seconds, None
    async with grpc.aio.insecure_channel(grpc_target(address)) as channel:
        call = router_pb2_grpc.RouterServiceStub(channel).Generate(request)
        async for _ in call:
            now_s = time.monotonic()
            if last_s is not None:
                found.append((now_s - last_s) * 1e3)
            last_s = now_s
            if now_s > until_s:
                break
        call.cancel()
    return Gaps(tuple(sorted(found)))


async def gaps_of_both(troubled: Router, untroubled: Router, seconds: float) -> tuple[Gaps, Gaps]:
    """Of two streams at the same time."""
    both = await asyncio.gather(*(gaps_of(router.address, seconds) for router in (troubled, untroubled)))
    return both[0], both[1]


def measured(router: Router, untroubled: Router, kind: str | None, seconds: float) -> str:
    """A line's end: what the streams saw, and what the loop took."""
    router.longest_turn()
    if kind is None:
        (gaps, others), outcomes = asyncio.run(gaps_of_both(router, untroubled, seconds)), ""
    else:
        command = [
            sys.executable,
            "-m",
            "benchmarks.strangers.attacks",
            kind,
            router.address,
            f"http://{router.http_address}",
            str(seconds),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacking:
            gaps, others = asyncio.run(gaps_of_both(router, untroubled, seconds + 1))
            outcomes = attacking.communicate()[0].strip()
    spent_ms, who = router.longest_turn()
    return f"gap {gaps}; through the other router {others}; longest turn {spent_ms:.1f} ms, {who}; {outcomes}"


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strangers", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each kind")
    parser.add_argument("--pass-ms", type=float, default=10.0)
    parser.add_argument("--model", type=Path, help=f"a folder with a tokenizer (default: {DEFAULT_LLM})")
    arguments = parser.parse_args()
    model = arguments.model or Path("~/.cache/specgrove").expanduser() / DEFAULT_LLM
    with (
        tempfile.TemporaryDirectory() as folder,
        suite(Path(folder) / "troubled", model, arguments.pass_ms) as router,
        suite(Path(folder) / "untroubled", model, arguments.pass_ms) as untroubled,
    ):
        for kind in (None, *arguments.kinds):
            name = "nobody else" if kind is None else ATTACKS[kind].what
            print(f"{name}: {measured(router, untroubled, kind, arguments.seconds)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
