"""The router on one host, the services on another: a cable that is cut in mid-stream costs time, and no token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from specgrove.client import AsyncClient
from specgrove.client.output import Usage
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.readiness import is_serving
from tests.k8s.two_hosts import Processes, TwoHosts, running, two_hosts
from tests.waiting import until, wait_until

pytestmark = pytest.mark.slow

QUESTION = [("user", "Explain how a bicycle stays upright, in detail.")]
MAX_TOKENS = 120
COMMON: dict[str, Any] = {
    "max_tokens": MAX_TOKENS,
    "ignore_eos": True,
    "speculation": SpeculationOptions(max_num_nodes=6, max_depth=3),
}
SAMPLINGS: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"temperature": 0.8, "seed": 5})
OUTAGE_S = 3.0


@dataclass(frozen=True)
class Apart:
    """The suite on two hosts. ``address`` is the router's."""

    hosts: TwoHosts
    processes: Processes
    address: str
    llm_address: str


@pytest.fixture(scope="module")
def apart(demo_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with two_hosts() as hosts:
        address = f"unix:{tmp_path_factory.mktemp('sockets')}/router.sock"
        llm, ssm = hosts.back.at(50052), hosts.back.at(50053)
        specs = (
            hosts.back.process("llm", "llm_service", "--model", str(demo_llm), "--dtype", "float32", "--address", llm),
            hosts.back.process("ssm", "ssm_service", "--ssm", "demo", "--ssm", "lookup", "--address", ssm),
            hosts.front.process(
                "router", "router", "--tree-policy", "static", "--address", address, "--llm", llm, "--ssm", ssm
            ),
        )
        with running(specs) as processes:
            wait_until(lambda: is_serving(address) and processes.has_said(f"{ssm}: connected"))
            yield Apart(hosts, processes, address, llm)


@dataclass
class Stream:
    """An output as it comes."""

    sampling: dict[str, Any]
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    usage: Usage | None = None

    async def read(self, client: AsyncClient) -> Stream:
        async for chunk in client.generate(QUESTION, **COMMON, **self.sampling):
            self.token_ids.extend(token.token_id for token in chunk.tokens)
            self.text += chunk.text
            self.usage = chunk.usage or self.usage
        return self


async def streams_over_an_outage(apart: Apart, outage: Callable[[], Any]) -> list[Stream]:
    """One for each sampling, all at once; the cable is cut while all are under way, and mended after ``outage`` while they still are."""
    async with AsyncClient(apart.address) as client:
        streams = [Stream(sampling) for sampling in SAMPLINGS]
        reading = asyncio.gather(*(stream.read(client) for stream in streams))
        await until(lambda: all(len(stream.token_ids) >= 10 for stream in streams))
        apart.hosts.cut()
        try:
            await outage()
            assert all(len(stream.token_ids) < MAX_TOKENS for stream in streams)
        finally:
            apart.hosts.mend()
        return await reading


@pytest.fixture(scope="module")
def undisturbed(apart: Apart) -> list[tuple[list[int], str]]:
    async def read() -> list[Stream]:
        async with AsyncClient(apart.address) as client:
            return list(await asyncio.gather(*(Stream(sampling).read(client) for sampling in SAMPLINGS)))

    return outputs_of(asyncio.run(read()))


def outputs_of(streams: list[Stream]) -> list[tuple[list[int], str]]:
    return [(stream.token_ids, stream.text) for stream in streams]


async def test_a_cable_that_is_cut_for_seconds_costs_no_token(
    apart: Apart, undisturbed: list[tuple[list[int], str]]
) -> None:
    streams = await streams_over_an_outage(apart, lambda: asyncio.sleep(OUTAGE_S))
    assert outputs_of(streams) == undisturbed


async def test_a_cable_that_is_cut_until_the_router_gives_the_replica_up_costs_no_token(
    apart: Apart, undisturbed: list[tuple[list[int], str]]
) -> None:
    """Longer than keepalive waits: both ends have forgotten the connection, and the LLM service the sessions."""
    log_start = len(apart.processes.log)
    is_given_up = lambda: apart.processes.has_said(f"{apart.llm_address}: lost", log_start)  # noqa: E731
    streams = await streams_over_an_outage(apart, lambda: until(is_given_up))
    assert outputs_of(streams) == undisturbed
    for stream in streams:
        assert stream.usage is not None
        assert stream.usage.num_replays >= 1
