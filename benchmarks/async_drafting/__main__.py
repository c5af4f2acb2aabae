"""Asynchronous drafting against synchronous, by turns: the real router over gRPC, step times and acceptance replayed.

    python -m benchmarks.async_drafting --llm-ms 20 --level-ms 2 --delay-ms 0 1 5

Two suites take turns, alike but for ``--draft-ahead``: the real router, the real SSM service over a runner that computes nothing, and an
LLM service that verifies trees by the trace. Every output of the trace is asked for, one after the other, once to warm up. A network's
delay is each way, to both services. See ``services`` and ``record``.

With ``--slow-motion 5`` all times given are five times as long, and rates are told as if they were not: what router and services compute
themselves then counts for a fifth, as on a machine that is not busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.async_drafting.trace import Trace
from benchmarks.served import served
from specgrove.addresses import grpc_target
from specgrove.v1 import router_pb2, router_pb2_grpc
from tests.addresses import free_port

TRACE = Path(__file__).parent / "qwen2.5-coder-1.5b-0.5b.npz"
_WAYS = ("synchronous", "asynchronous")
_DRAFT_AHEAD = {"synchronous": "off", "asynchronous": "on"}


@dataclass(frozen=True, slots=True)
class Found:
    """Of one round over all outputs."""

    tokens_per_s: float
    tokens_per_step: float
    num_hits: float
    num_misses: float


class Suite:
    """Its addresses."""

    def __init__(self, folder: Path) -> None:
        self.llm, self.ssm, self.router = (f"unix:{folder / name}.sock" for name in ("llm", "ssm", "router"))
        self.metrics = f"127.0.0.1:{free_port(['127.0.0.1'])}"

    def ahead(self) -> tuple[float, float]:
        """Trees that had been drafted ahead so far, and those that hadn't."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        name = "specgrove_router_drafts_ahead_total"
        found = {line.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}
        return found.get(f'{name}{{outcome="hit"}}', 0.0), found.get(f'{name}{{outcome="miss"}}', 0.0)


@contextlib.contextmanager
def started(way: str, arguments: argparse.Namespace, delay_ms: float) -> Iterator[Suite]:
    """The three processes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        suite = Suite(folder)
        services = ["-m", "benchmarks.async_drafting.services"]
        times = arguments.slow_motion
        delay = ["--delay-ms", str(times * delay_ms)]
        trace = str(arguments.trace)
        commands = [
            [*services, "llm", suite.llm, trace, *delay, "--pass-ms", str(times * arguments.llm_ms)],
            [*services, "ssm", suite.ssm, trace, *delay, "--pass-ms", str(times * arguments.level_ms),
             "--draft-ahead", _DRAFT_AHEAD[way]],
            ["-m", "router", "--llm", suite.llm, "--ssm", suite.ssm, "--address", suite.router,
             "--metrics-address", suite.metrics, *_policy(arguments)],
        ]  # fmt: skip
        with served(commands, suite.router, folder):
            yield suite


def _policy(arguments: argparse.Namespace) -> list[str]:
    if arguments.depth is None:
        return []
    return [
        "--tree-policy",
        "static",
        "--max-tree-nodes",
        str(arguments.nodes),
        "--max-tree-depth",
        str(arguments.depth),
    ]


async def measured(suite: Suite, lengths: list[int], times: float) -> Found:
    """One round: the time of each output is that from its first token to its last, of which ``times`` is one."""
    hits_before, misses_before = suite.ahead()
    num_tokens = num_steps = 0
    elapsed_s = 0.0
    async with grpc.aio.insecure_channel(grpc_target(suite.router)) as channel:
        stub: Any = router_pb2_grpc.RouterServiceStub(channel)
        for number, length in enumerate(lengths):
            request = router_pb2.GenerateRequest(
                token_ids=router_pb2.TokenIds(token_ids=[number]), max_tokens=length, ignore_eos=True
            )
            first_s: float | None = None
            async for response in stub.Generate(request):
                now_s = time.perf_counter()
                if first_s is None and response.tokens:
                    first_s = now_s
                    num_tokens -= len(response.tokens)
                num_tokens += len(response.tokens)
                num_steps += response.usage.num_verify_steps
            assert first_s is not None
            elapsed_s += now_s - first_s
    hits, misses = suite.ahead()
    num_steps -= len(lengths)
    return Found(times * num_tokens / elapsed_s, num_tokens / num_steps, hits - hits_before, misses - misses_before)


async def compare(arguments: argparse.Namespace, delay_ms: float, lengths: list[int]) -> None:
    """Prints a line for each way, and their ratio."""
    found: dict[str, list[Found]] = {way: [] for way in _WAYS}
    with contextlib.ExitStack() as stack:
        suites = {way: stack.enter_context(started(way, arguments, delay_ms)) for way in _WAYS}
        for number in range(arguments.rounds + 1):
            for way in _WAYS if number % 2 else reversed(_WAYS):
                one = await measured(suites[way], lengths, arguments.slow_motion)
                if number:  # the first warms up
                    found[way].append(one)
    for way in _WAYS:
        rates = sorted(one.tokens_per_s for one in found[way])
        num_hits = sum(one.num_hits for one in found[way])
        num_asked = num_hits + sum(one.num_misses for one in found[way])
        steps = statistics.median(one.tokens_per_step for one in found[way])
        hit_rate = f", {num_hits / num_asked:.2f} of the trees drafted ahead" if num_asked else ""
        print(
            f"delay {delay_ms:g} ms, {way:12s}: {statistics.median(rates):6.1f} tokens/s ({rates[0]:.1f} to {rates[-1]:.1f}), "
            f"{steps:.2f} tokens a step{hit_rate}",
            flush=True,
        )
    ratios = sorted(
        ahead.tokens_per_s / plain.tokens_per_s
        for ahead, plain in zip(found["asynchronous"], found["synchronous"], strict=True)
    )
    print(f"delay {delay_ms:g} ms: {statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.async_drafting", description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--llm-ms", type=float, default=20.0, help="a pass of the LLM")
    parser.add_argument("--level-ms", type=float, default=2.0, help="a level of the SSM's trees")
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0.0, 1.0, 5.0], help="of the network, each way")
    parser.add_argument(
        "--slow-motion", type=float, default=1.0, metavar="TIMES", help="all of these times, so many times"
    )
    parser.add_argument("--outputs", type=int, default=1000, help="of the trace, the first ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, help="trees are always so deep; unset: as the tree policy finds best")
    parser.add_argument("--nodes", type=int, default=16, help="of those trees")
    arguments = parser.parse_args()
    trace = Trace.read(arguments.trace)
    outputs = trace.outputs[: arguments.outputs]
    shares = [statistics.mean(output.right_share(num) for output in outputs) for num in (1, 2, 4, 8)]
    print(
        f"{trace.conditions['llm']} and {trace.conditions['ssm']}, {trace.conditions['choice']}: {len(outputs)} outputs, right first "
        f"{shares[0]:.2f}, among two {shares[1]:.2f}, four {shares[2]:.2f}, eight {shares[3]:.2f}",
        flush=True,
    )
    for delay_ms in arguments.delay_ms:
        asyncio.run(compare(arguments, delay_ms, [len(output.token_ids) for output in outputs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
