"""Several LLM services behind one router: sessions are spread over them, and the death of one costs no token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.end_to_end.sick_services import Hospital, hospital_of
from tests.end_to_end.stories import stories
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SERVICES = ("llm_service", "llm_service-2")
NUM_STORIES, MAX_TOKENS = 6, 150


@pytest.fixture(scope="module")
def pair(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    config = SuiteConfig(
        llm_folder=tiny_model, ssms=("lookup",), dtype="float32", num_threads=1, num_llm_replicas=2, router_arguments=ALWAYS_DRAFT,
        llm_arguments=("--kv-slots", "8192"),
    )  # fmt: skip
    with hospital_of(config, tmp_path_factory.mktemp("illnesses")) as running:
        yield running


def num_steps(suite: Suite, service: str) -> int:
    """Forward passes that a replica has made."""
    with grpc.insecure_channel(suite.address_of(service)) as channel:
        return llm_pb2_grpc.LlmServiceStub(channel).GetLoad(llm_pb2.LlmServiceGetLoadRequest()).load.num_passes


@pytest.fixture(scope="module")
def expected(tiny_suite: Suite) -> list[tuple[int, ...]]:
    """What one service gives."""
    return [completion.token_ids for completion in asyncio.run(stories(tiny_suite.address, NUM_STORIES, MAX_TOKENS))]


def test_sessions_are_spread_and_replicas_give_the_same_tokens(expected: list[tuple[int, ...]], pair: Hospital) -> None:
    def is_spread() -> bool:
        before = [num_steps(pair.suite, service) for service in SERVICES]
        found = asyncio.run(stories(pair.suite.address, NUM_STORIES, MAX_TOKENS))
        after = [num_steps(pair.suite, service) for service in SERVICES]
        assert [completion.token_ids for completion in found] == expected
        return min(later - earlier for earlier, later in zip(before, after, strict=True)) > 20

    wait_until(is_spread)  # the router serves as soon as it has found one of them


def test_the_other_replica_takes_over(expected: list[tuple[int, ...]], pair: Hospital) -> None:
    pair.fall_ill("llm_service", "dies", num_steps=20)
    found = asyncio.run(stories(pair.suite.address, NUM_STORIES, MAX_TOKENS))
    assert [completion.token_ids for completion in found] == expected
    assert sum(completion.usage.num_replays for completion in found) >= 1
    wait_until(lambda: sum(pair.suite.num_restarts(service) for service in SERVICES) == 1)  # the other was quicker
