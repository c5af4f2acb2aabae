"""Several LLM services behind one router: sessions are spread over them, and the death of one costs no token."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from specgrove.client import AsyncClient
from specgrove.output import Completion
from specgrove.request import SpeculationOptions
from specgrove.serve import Suite, SuiteConfig
from specgrove.v1 import llm_pb2, llm_pb2_grpc

QUESTIONS = [f"Write a short story about a town with {number} bridges." for number in range(6)]


@pytest.fixture(scope="module")
def pair(demo_llm: Path) -> Iterator[Suite]:
    slots = ("--kv-slots", "8192")
    config = SuiteConfig(
        llm_folder=demo_llm, ssms=("lookup",), dtype="float32", num_llm_replicas=2, llm_arguments=slots
    )
    with Suite(config) as running:
        yield running


def num_steps(suite: Suite, service: str) -> int:
    """Forward passes that a replica has made."""
    with grpc.insecure_channel(suite.address_of(service)) as channel:
        return llm_pb2_grpc.LlmServiceStub(channel).GetLoad(llm_pb2.LlmServiceGetLoadRequest()).load.num_steps


async def answers(address: str) -> list[Completion]:
    async with AsyncClient(address) as client:
        requests = [
            client.complete(
                [("user", question)], max_tokens=48, temperature=0.8, seed=7, ignore_eos=True,
                speculation=SpeculationOptions(max_num_nodes=4, max_depth=3),
            )
            for question in QUESTIONS
        ]  # fmt: skip
        return list(await asyncio.gather(*requests))


def test_sessions_are_spread_and_replicas_give_the_same_tokens(suite: Suite, pair: Suite) -> None:
    expected = asyncio.run(answers(suite.address))
    before = [num_steps(pair, service) for service in ("llm_service", "llm_service-2")]
    found = asyncio.run(answers(pair.address))
    after = [num_steps(pair, service) for service in ("llm_service", "llm_service-2")]
    assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
    assert min(later - earlier for earlier, later in zip(before, after, strict=True)) > 20


def test_the_other_replica_takes_over(suite: Suite, pair: Suite) -> None:
    expected = asyncio.run(answers(suite.address))

    async def kill_one() -> list[Completion]:
        before = num_steps(pair, "llm_service-2")
        running = asyncio.ensure_future(answers(pair.address))
        while await asyncio.to_thread(num_steps, pair, "llm_service-2") < before + 10:
            assert not running.done()
            await asyncio.sleep(0.01)
        pid = pair.pid("llm_service-2")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return await running

    found = asyncio.run(kill_one())
    assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
    assert sum(completion.usage.num_replays for completion in found) >= 1
