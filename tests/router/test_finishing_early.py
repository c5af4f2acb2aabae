"""Steps ahead that are called off over the network, once drafts turn out to be wanted still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from router.llm_replicas import LlmPool
from router.remote_verifier import RemoteVerifier
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import toy_suite
from tests.waiting import until


class Halting(ToyLlm):
    """Makes one step and waits; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[VerifyWork] = []
        self.gate.clear()
        self.num_free_steps = 1

    async def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        self.asked.append(work)
        async for answer in super().verify(work):
            yield answer


async def test_a_replica_is_told_to_stop_and_the_drafters_read_meanwhile() -> None:
    async with toy_suite(Halting()) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        llm = suite.llm
        assert isinstance(llm, Halting)
        await until(lambda: bool(llm.finished_early and suite.ssm.asked))
        assert [work.num_steps for work in llm.asked] == [64]
        assert len(suite.ssm.asked[0].new_token_ids) == len(PROMPT) + 1
        llm.gate.set()
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)
        assert len(llm.finished_early) == 1
        assert llm.asked[1].base + len(llm.asked[1].new_token_ids) == len(PROMPT) + 2
        assert any(work.tree.num_nodes > 1 for work in llm.asked)


class Deaf(Halting):
    """As a service of before: it goes on."""

    def finish_early(self, session_id: str) -> None:
        self.finished_early.append(session_id)


async def test_a_replica_that_goes_on_all_the_same_is_listened_to() -> None:
    async with toy_suite(Deaf()) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        llm = suite.llm
        assert isinstance(llm, Deaf)
        await until(lambda: bool(llm.finished_early))
        llm.gate.set()
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)
        assert len(llm.finished_early) == 1
        assert llm.asked[1].base + len(llm.asked[1].new_token_ids) == len(PROMPT) + 64


async def test_a_replica_that_dies_after_it_was_told_is_asked_for_no_more_steps_ahead() -> None:
    async with toy_suite(Halting()) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        before = suite.llm
        await until(lambda: bool(before.finished_early))
        after = Halting()
        after.gate.set()
        await suite.restart_llm(after)
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)
        assert after.asked[0].num_steps == 1
        assert after.finished_early == []


async def test_nothing_is_remembered_of_works_that_have_ended() -> None:
    async with toy_suite() as suite:
        suite.llm.forget_probability = 0.1
        assert token_ids_of(await responses_to(suite, request_of(max_tokens=100))) == toy_output(PROMPT, 100)
        suite.llm.gate.clear()
        call = suite.stub.Generate(request_of(max_tokens=100))
        (replica,) = suite.app.llms.replicas
        await until(lambda: len(replica.client._under_way) == 1)
        await until(lambda: any(stream._items for stream in suite.llm.streams._streams))
        call.cancel()
        await until(lambda: not replica.client._under_way)
        suite.llm.gate.set()
        await until(lambda: not any(stream._items for stream in suite.llm.streams._streams))


async def test_there_may_be_nothing_to_finish() -> None:
    pool = LlmPool(["unix:/nowhere/a.sock"])
    RemoteVerifier(pool, replica_wait_s=1.0, busy_wait_s=1.0).session("unknown").finish_early()
    await pool.close()
