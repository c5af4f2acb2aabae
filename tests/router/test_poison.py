"""A request that its LLM service dies of, over real sockets: it is given up after the second time it did so by itself; the others go on."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from specgrove.errors import InternalError
from specgrove.request import Verdict, VerifyWork
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, ToySuite, toy_suite
from tests.waiting import until

POISON = ord("!")
POISONED = "Hello!"


class Mortal(ToyLlm):
    """Dies of a prompt with the token ``POISON``; ``deaths`` counts those of all its incarnations."""

    def __init__(self, deaths: list[int], step_s: float = 0.002) -> None:
        super().__init__(step_s=step_s)
        self.deaths = deaths
        self.is_dying = asyncio.Event()

    async def _step(self, work: VerifyWork) -> Verdict:
        prompt = work.new_token_ids[: work.session.prompt_len] if work.session is not None else ()
        if self.is_dying.is_set() or POISON in prompt:
            self.is_dying.set()
            await asyncio.sleep(60)
        return await super()._step(work)


async def supervise(suite: ToySuite) -> None:
    """Starts the service again each time it dies."""
    while True:
        assert isinstance(suite.llm, Mortal)
        await suite.llm.is_dying.wait()
        suite.llm.deaths.append(len(suite.llm.sessions))
        await suite.restart_llm(Mortal(suite.llm.deaths), pause_s=0.02)


async def refused(suite: ToySuite, request: router_pb2.GenerateRequest) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request)
    return error_from_rpc(info.value)


@pytest.mark.parametrize("num_others", [0, 8])
async def test_the_guilty_is_given_up_and_the_others_go_on(num_others: int) -> None:
    deaths: list[int] = []
    async with toy_suite(Mortal(deaths)) as suite:
        supervisor = asyncio.create_task(supervise(suite))
        others = [asyncio.create_task(responses_to(suite, request_of(max_tokens=120))) for _ in range(num_others)]
        await until(lambda: suite.llm.num_verified >= 3 * num_others)
        error = await refused(suite, request_of(text=POISONED))
        assert isinstance(error, InternalError)
        assert "this request made the service fail twice" in str(error)
        assert "try again" not in str(error)
        for responses in await asyncio.gather(*others):
            assert token_ids_of(responses) == toy_output(PROMPT, 120)
        assert len(deaths) == (2 if num_others == 0 else 3)
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)
        supervisor.cancel()


async def test_who_only_sees_services_die_is_not_blamed() -> None:
    """Killed again and again, each time when everybody has got on by a step or more."""
    async with toy_suite(ToyLlm(step_s=0.002)) as suite:
        generating = [asyncio.create_task(responses_to(suite, request_of(max_tokens=400))) for _ in range(8)]
        for _ in range(8):
            await until(lambda: len(suite.llm.sessions) == 8, 5)
            await suite.restart_llm(ToyLlm(step_s=0.002), pause_s=0.01)
        for responses in await asyncio.gather(*generating):
            assert token_ids_of(responses) == toy_output(PROMPT, 400)


async def test_a_replica_that_drains_is_nobodys_fault() -> None:
    async with toy_suite(ToyLlm(step_s=0.005)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        for _ in range(4):
            num_verified = suite.llm.num_verified
            await until(lambda: suite.llm.num_verified > num_verified, 5)  # noqa: B023
            await suite.llm_server.stop(2.0)
            await suite.restart_llm(ToyLlm(step_s=0.005), pause_s=0.01)
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)
