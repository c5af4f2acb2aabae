"""A request that its LLM service dies of, over real sockets: it is given up after the second time it did so by itself; the others go on."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from specgrove.errors import InternalError
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import until

POISON = ord("!")
POISONED = "Hello!"


class Mortal(ToyLlm):
    """Dies of a prompt with the token ``POISON``; ``deaths`` counts those of all its incarnations.

    Before the first death all others make three steps and wait: however slow the machine, they are under way then.
    """

    def __init__(self, deaths: list[int]) -> None:
        super().__init__()
        self.deaths = deaths
        self.is_dying = asyncio.Event()
        if not deaths:
            self.gate.clear()
            self.num_free_steps = 3

    async def _step(self, work: VerifyWork) -> Verdict:
        prompt = work.new_token_ids[: work.session.prompt_len] if work.session is not None else ()
        if self.is_dying.is_set() or POISON in prompt:
            self.is_dying.set()
            await asyncio.Event().wait()
        return await super()._step(work)


async def supervise(suite: ToySuite) -> None:
    """Starts the service again each time it dies."""
    while True:
        assert isinstance(suite.llm, Mortal)
        await suite.llm.is_dying.wait()
        suite.llm.deaths.append(len(suite.llm.sessions))
        await suite.restart_llm(Mortal(suite.llm.deaths))


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
    """Killed again and again: before anybody has got a verdict, before any suspect has, and each time when everybody has got one."""
    token_ids: list[list[int]] = [[] for _ in range(8)]

    async def generate(number: int) -> None:
        async for response in suite.stub.Generate(request_of(max_tokens=100)):
            token_ids[number].extend(token.token_id for token in response.tokens)

    def num_aboard() -> int:
        return len(suite.llm.sessions)

    def have_all_got_on() -> bool:
        """Each has made its one step, and the router has sent on what it gave."""
        sessions = suite.llm.sessions.values()
        made = sorted(len(session.token_ids) - len(PROMPT) for session in sessions)
        return all(session.num_steps == 1 for session in sessions) and made == sorted(map(len, token_ids))

    async with toy_suite(halting_llm(0)) as suite:
        async with asyncio.TaskGroup() as generating:  # one that is given up ends the test at once
            for number in range(8):
                generating.create_task(generate(number))
            await until(lambda: num_aboard() == 8)
            await suite.restart_llm(halting_llm(0))
            await until(lambda: num_aboard() == 1)  # suspects come one at a time
            for _ in range(5):
                await suite.restart_llm(halting_llm(1))
                await until(have_all_got_on)
            await suite.restart_llm(ToyLlm())
        assert token_ids == [toy_output(PROMPT, 100)] * 8


async def test_a_replica_that_drains_is_nobodys_fault() -> None:
    async with toy_suite(halting_llm(2)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        for _ in range(4):
            await until(lambda: suite.llm.num_verified == 2)
            await suite.drain_llm()
            await suite.restart_llm(halting_llm(2))
        suite.llm.gate.set()
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)
