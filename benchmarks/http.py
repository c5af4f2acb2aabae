"""What HTTP costs beside gRPC: streams of the same requests by both, in turn.

    python -m benchmarks.http --batches 1 64 --rounds 7

One suite answers all, without SSMs and with a message per token, which is the most that a router can have to send. Every round sends the
same prompts by gRPC, by HTTP, and by HTTP again with the ``openai`` package, whose own work is then in the figure. Printed are medians
with quartiles, over the rounds' pairs, and the router's processor time for a chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.host import ON_CPU, conditions
from benchmarks.processor_time import cpu_s
from benchmarks.prompts import load_prompts
from specgrove.addresses import grpc_target
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import router_pb2, router_pb2_grpc
from tests.addresses import free_address

Stream = Callable[[str], Awaitable[int]]
"""Reads the answer to a prompt to its end; the number of its chunks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn: wall time, chunks in all, and the router's processor time."""

    wall_s: float
    num_chunks: int
    router_cpu_s: float


def over_grpc(address: str, max_tokens: int) -> Stream:
    """All on one connection."""
    stub = router_pb2_grpc.RouterServiceStub(grpc.aio.insecure_channel(grpc_target(address)))

    async def stream(prompt: str) -> int:
        chat = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content=prompt)])
        request = router_pb2.GenerateRequest(chat=chat, max_tokens=max_tokens, ignore_eos=True)
        return sum([1 async for response in stub.Generate(request) if response.tokens])

    return stream


def body_of(prompt: str, max_tokens: int) -> dict[str, object]:
    """The same as JSON."""
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_completion_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }


def over_http(address: str, max_tokens: int) -> Stream:
    """A connection for each stream, and a client that does nothing but count."""
    host, port = address.split(":")

    async def stream(prompt: str) -> int:
        body = json.dumps(body_of(prompt, max_tokens)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        num_chunks = 0
        while not (line := await reader.readline()).startswith(b"data: [DONE]"):
            num_chunks += line.startswith(b"data: {")
        writer.close()
        return num_chunks

    return stream


def over_openai(address: str, max_tokens: int) -> Stream:
    """As programs do it."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=600)

    async def stream(prompt: str) -> int:
        body: dict[str, Any] = {"model": "", **body_of(prompt, max_tokens)}
        chunks = await client.chat.completions.create(extra_body={"ignore_eos": body.pop("ignore_eos")}, **body)
        return len([chunk async for chunk in chunks])

    return stream


async def turn(stream: Stream, prompts: list[str], pid: int) -> Measured:
    """All prompts at once."""
    cpu, start_s = cpu_s(pid), time.perf_counter()
    counts = await asyncio.gather(*(stream(prompt) for prompt in prompts))
    return Measured(time.perf_counter() - start_s, sum(counts), cpu_s(pid) - cpu)


async def compare(suite: Suite, http_address: str, arguments: argparse.Namespace) -> None:
    """Prints a table for every batch size."""
    pid = suite.pid("router")
    assert pid is not None
    streams = {
        "gRPC": over_grpc(suite.address, arguments.max_tokens),
        "HTTP": over_http(http_address, arguments.max_tokens),
        "HTTP, openai": over_openai(http_address, arguments.max_tokens),
    }
    for batch in arguments.batches:
        prompts = load_prompts(batch)
        rounds: dict[str, list[Measured]] = {name: [] for name in streams}
        # Short turns differ more; there are more of them.
        num_rounds = arguments.rounds * max(1, 8 // batch)
        for number in range(-1, num_rounds):
            for name in streams if number % 2 else reversed(streams):
                measured = await turn(streams[name], prompts, pid)
                if number >= 0:  # the first warms up
                    rounds[name].append(measured)
        print(f"{batch} at once, {num_rounds} rounds of {batch * arguments.max_tokens} tokens:")
        for name, measured_rounds in rounds.items():
            print(f"  {name:13} {_in_words(measured_rounds, rounds['gRPC'], batch * arguments.max_tokens)}")


def _in_words(rounds: list[Measured], of_grpc: list[Measured], num_tokens: int) -> str:
    pairs = list(zip(rounds, of_grpc, strict=True))
    rate = statistics.median(num_tokens / one.wall_s for one in rounds)
    ratio = _quartiles([beside.wall_s / one.wall_s for one, beside in pairs])
    extra_ms = _quartiles([(one.wall_s - beside.wall_s) * 1e3 / num_tokens for one, beside in pairs])
    # Counted in hundredths of a second: of all rounds together.
    cpu_ms = sum(one.router_cpu_s for one in rounds) / sum(one.num_chunks for one in rounds) * 1e3
    return (
        f"{rate:6.1f} tokens/s; {ratio} of gRPC's rate; {extra_ms} ms a chunk longer; "
        f"the router's processor time {cpu_ms:.3f} ms a chunk"
    )


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    http_address = free_address()
    config = SuiteConfig(
        llm_folder=folder,
        ssms=(),
        llm_arguments=(*ON_CPU, "--stream-interval-ms", "0"),
        # gRPC's streams share a connection, which may have three quarters of these.
        router_arguments=("--http-address", http_address, "--max-requests", str(2 * max(arguments.batches))),
    )
    with Suite(config) as suite:
        asyncio.run(compare(suite, http_address, arguments))
    print(", ".join(conditions().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
