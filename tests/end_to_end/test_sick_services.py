"""Real services over a tiny model that hang, die of a request, or have few slots: no token is lost, and who is to blame is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from specgrove.client import AsyncClient, Client
from specgrove.client.output import Completion
from specgrove.errors import InternalError
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.end_to_end.sick_services import POISON, Hospital, hospital_of
from tests.waiting import wait_until

NUM_SLOTS = 600
PROMPTS = [tuple(range(start, start + 20)) for start in range(40, 46)]
# Greedy outputs of so small a model go round in circles.
PARAMS = {"max_tokens": 160, "temperature": 1.0, "seed": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def hospital(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    config = SuiteConfig(
        llm_folder=tiny_model, ssms=("lookup",), num_threads=1,
        llm_arguments=("--kv-slots", str(NUM_SLOTS), "--pass-timeout-s", "2"),
        ssm_arguments=("--pass-timeout-s", "2"), router_arguments=ALWAYS_DRAFT,
    )  # fmt: skip
    with hospital_of(config, tmp_path_factory.mktemp("illnesses")) as running:
        yield running


async def together(suite: Suite, num_clients: int) -> list[Completion]:
    """The outputs of several requests at once, each over a connection of its own."""

    async def one(index: int) -> Completion:
        async with AsyncClient(suite.address) as client:
            return await client.complete(PROMPTS[index], **PARAMS)

    return list(await asyncio.gather(*(one(index) for index in range(num_clients))))


@pytest.fixture(scope="module")
def alone(hospital: Hospital) -> list[tuple[int, ...]]:
    """What each prompt gives without company."""
    with Client(hospital.suite.address) as client:
        outputs = [client.complete(prompt, **PARAMS).token_ids for prompt in PROMPTS]
    assert len(set(outputs)) == len(PROMPTS)
    return outputs


def slots_in_use(suite: Suite) -> int:
    with grpc.insecure_channel(suite.address_of("llm_service")) as channel:
        load = llm_pb2_grpc.LlmServiceStub(channel).GetLoad(llm_pb2.LlmServiceGetLoadRequest()).load
    return load.num_slots - load.num_free_slots


def test_more_sessions_than_slots_wait_for_each_other_and_lose_nothing(
    hospital: Hospital, alone: list[tuple[int, ...]]
) -> None:
    assert sum(len(prompt) + PARAMS["max_tokens"] for prompt in PROMPTS) > NUM_SLOTS
    found = asyncio.run(together(hospital.suite, len(PROMPTS)))
    assert [completion.token_ids for completion in found] == alone
    assert all(completion.usage.num_replays == 0 for completion in found)
    wait_until(lambda: slots_in_use(hospital.suite) == 0)


@pytest.mark.parametrize(
    ("service", "illness", "num_steps"),
    [
        ("llm_service", "sleeps", 20),
        ("llm_service", "keeps the interpreter", 20),
        ("ssm_service", "keeps the interpreter", 3),
    ],
)
def test_a_step_that_hangs_ends_its_service_and_costs_no_token(
    hospital: Hospital, alone: list[tuple[int, ...]], service: str, illness: str, num_steps: int
) -> None:
    num_restarts = hospital.suite.num_restarts(service)
    hospital.fall_ill(service, illness, num_steps)
    found = asyncio.run(together(hospital.suite, 2))
    assert [completion.token_ids for completion in found] == alone[:2]
    assert any(completion.usage.num_replays > 0 for completion in found) == (service == "llm_service")
    wait_until(lambda: hospital.suite.num_restarts(service) > num_restarts)


def test_a_request_that_the_service_dies_of_is_given_up_and_the_others_go_on(
    hospital: Hospital, alone: list[tuple[int, ...]]
) -> None:
    async def poisoned() -> None:
        async with AsyncClient(hospital.suite.address) as client:
            with pytest.raises(InternalError, match="this request made the service fail twice"):
                await client.complete((*PROMPTS[0], POISON), **PARAMS)

    async def both() -> list[Completion]:
        others, _ = await asyncio.gather(together(hospital.suite, 2), poisoned())
        return others

    assert [completion.token_ids for completion in asyncio.run(both())] == alone[:2]
