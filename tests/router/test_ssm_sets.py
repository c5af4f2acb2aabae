"""SSM services with the same SSMs are one set: a request that loses its drafter goes on at another of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest

from router import remote_drafter
from router.remote_drafter import RemoteDrafter, RemoteDrafterSession
from specgrove.errors import StaleBaseError, UnavailableError
from specgrove.loop.request import SpeculationOptions
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_cluster import ToyCluster, toy_cluster
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm
from tests.router.toy_ssm import ToySsm
from tests.waiting import LIMIT_S, until

LLM, A, B = "127.0.0.2", "127.0.0.3", "127.0.0.4"
ONE_NODE = TreeShape(max_num_nodes=1, max_depth=1)


def work(session_id: str, num_tokens: int, base: int = 0) -> DraftWork:
    return DraftWork(session_id, base, tuple(range(1, num_tokens + 1 - base)), ONE_NODE)


async def drafted(drafter: RemoteDrafter, work: DraftWork) -> Draft:
    session = drafter.session(work.session_id)
    session.ask(work)
    return await session.answer()


async def drafter_of(cluster: ToyCluster) -> RemoteDrafter:
    (drafter,) = cluster.app.ssms.drafters_for(SpeculationOptions())
    return drafter


async def begun_request(cluster: ToyCluster, llm: ToyLlm, ssm: ToySsm) -> asyncio.Task[list[int]]:
    """One that ``ssm`` drafts for; it goes on when the gate of ``llm`` is opened."""

    async def generate() -> list[int]:
        return token_ids_of(await responses_to(cluster, request_of(max_tokens=300)))

    generating = asyncio.create_task(generate())
    await until(lambda: bool(llm.finished_early))
    llm.num_free_steps = 20
    llm.gate.set()
    llm.gate.clear()  # the step that waits goes on
    await until(lambda: len(ssm.asked) >= 5)
    return generating


async def a_request_and_two_services(cluster: ToyCluster) -> tuple[ToyLlm, ToySsm, ToySsm, asyncio.Task[list[int]]]:
    """The LLM service, the SSM service that drafts for the request, one that came later, and the request."""
    first = await cluster.add_ssm(A, ToySsm())
    llm = await cluster.add_llm(LLM, halting_llm(1))
    await until(lambda: cluster.takes_sessions(LLM) and cluster.takes_sessions(A))
    generating = await begun_request(cluster, llm, first)
    second = await cluster.add_ssm(B, ToySsm())
    await until(lambda: cluster.takes_sessions(B))
    return llm, first, second, generating


async def test_a_lost_services_request_is_drafted_for_by_another() -> None:
    async with toy_cluster() as cluster:
        llm, _, other, generating = await a_request_and_two_services(cluster)
        await cluster.ssm_server(A).stop(0)
        await until(lambda: not cluster.takes_sessions(A))
        llm.gate.set()
        assert await generating == toy_output(PROMPT, 300)
        assert len(other.asked) > 5
        assert next(asked for asked in other.asked if asked.base == 0).new_token_ids[: len(PROMPT)] == tuple(PROMPT)


async def test_a_draining_services_requests_stay_until_it_refuses_them() -> None:
    async with toy_cluster() as cluster:
        llm, first, other, generating = await a_request_and_two_services(cluster)
        cluster.ssm_server(A).health.set_serving(False)
        await until(lambda: not cluster.takes_sessions(A))
        num_asked = len(first.asked)
        llm.num_free_steps = 30
        llm.gate.set()
        llm.gate.clear()
        await until(lambda: len(first.asked) > num_asked)
        assert not other.asked
        await cluster.ssm_server(A).stop(LIMIT_S)
        llm.gate.set()
        assert await generating == toy_output(PROMPT, 300)
        assert any(asked.base == 0 for asked in other.asked)


async def test_a_second_service_gets_the_next_requests_and_its_share_is_told() -> None:
    async with toy_cluster() as cluster:
        llm, first, second, generating = await a_request_and_two_services(cluster)
        num_asked = len(first.asked)
        llm.num_free_steps = 0
        others = [asyncio.create_task(responses_to(cluster, request_of(max_tokens=30)))]
        await until(lambda: len(llm.sessions) == 2)
        llm.num_free_steps = 30
        llm.gate.set()
        llm.gate.clear()
        await until(lambda: len(second.asked) > 0)
        stats = await cluster.stub.GetStats(router_pb2.GetStatsRequest())
        shares = {s.address: (s.num_requests, s.num_items > 0) for s in stats.services if s.service == "ssm_service"}
        assert shares == dict.fromkeys((cluster.ssm_server(A).address, cluster.ssm_server(B).address), (1, True))
        llm.gate.set()
        assert await generating == toy_output(PROMPT, 300)
        assert token_ids_of(await others[0]) == toy_output(PROMPT, 30)
        assert len(first.asked) > num_asked  # nobody moves for nothing


async def test_services_with_other_ssms_are_another_set() -> None:
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, ToyLlm())
        await cluster.add_ssm(A, ToySsm(("toy-a",)))
        await cluster.add_ssm(B, ToySsm(("toy-b",)))
        await until(lambda: all(map(cluster.takes_sessions, (A, B))))
        assert len(cluster.app.ssms.drafters_for(SpeculationOptions())) == 2
        assert len(cluster.app.ssms.drafters_for(SpeculationOptions(ssms=("toy-b",)))) == 1
        assert cluster.app.ssms.drafters_for(SpeculationOptions(disabled=True)) == ()


async def test_a_request_that_came_before_any_service_is_drafted_for_by_the_first() -> None:
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, ToyLlm())
        assert cluster.app.ssms.drafters_for(SpeculationOptions()) == ()
        cluster.dns.add("ssm", A)  # it is not ready yet
        await until(lambda: cluster.ssm_replica(A) is not None)
        drafter = await drafter_of(cluster)
        with pytest.raises(UnavailableError):
            await drafted(drafter, work("s", 3))
        await cluster.add_ssm(A, ToySsm())
        await until(lambda: cluster.takes_sessions(A))
        assert len((await drafted(drafter, work("s", 3))).trees) == 2


@contextlib.asynccontextmanager
async def joined_by_another(
    monkeypatch: pytest.MonkeyPatch, session_ids: Iterable[str]
) -> AsyncIterator[tuple[ToyCluster, RemoteDrafter, ToySsm, ToySsm]]:
    """A service that has all the sessions, of three tokens each, and is always too late; then another one comes."""
    monkeypatch.setattr(remote_drafter, "_LATE_S", 0.0)
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, ToyLlm())
        slow = await cluster.add_ssm(A, ToySsm())
        await until(lambda: cluster.takes_sessions(A))
        drafter = await drafter_of(cluster)
        for session_id in session_ids:
            await drafted(drafter, work(session_id, 3))
        other = await cluster.add_ssm(B, ToySsm())
        await until(lambda: cluster.takes_sessions(B))
        yield cluster, drafter, slow, other


async def test_who_drafts_too_late_is_relieved_until_all_have_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    lens = {f"s{number}": 3 for number in range(4)}
    async with joined_by_another(monkeypatch, lens) as (cluster, drafter, slow, other):

        async def draft_all() -> int:
            num_moved = 0
            for session_id, num_tokens in lens.items():
                lens[session_id] += 1
                try:
                    await drafted(drafter, work(session_id, num_tokens + 1, num_tokens))
                except StaleBaseError:
                    await drafted(drafter, work(session_id, num_tokens + 1))
                    num_moved += 1
            return num_moved

        assert await draft_all() == 0  # two leave with a draft, and come with the next
        assert await draft_all() == 2
        assert [await draft_all() for _ in range(3)] == [0, 0, 0]
        await until(lambda: len(other.sessions) == 2)
        # They may come back, and are held then as far as they were.
        assert (slow.closed, len(slow.sessions)) == ([], 4)
        (moved, _) = other.sessions
        lost = cluster.ssm_replica(B)
        assert lost is not None
        await cluster.ssm_server(B).stop(0)
        await until(lambda: not lost.session_ids)
        lens[moved] += 1
        with pytest.raises(StaleBaseError) as lacking:
            await drafted(drafter, work(moved, lens[moved], lens[moved] - 1))
        assert 0 < lacking.value.held_len < lens[moved] - 1
        await drafted(drafter, work(moved, lens[moved], lacking.value.held_len))
        await drafter.session(moved).close()
        await until(lambda: slow.closed == [moved])


async def test_a_request_that_ends_is_closed_where_it_was_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined_by_another(monkeypatch, ("stays", "moves")) as (_, drafter, slow, other):
        await drafted(drafter, work("moves", 4, 3))
        with pytest.raises(StaleBaseError):
            await drafted(drafter, work("moves", 5, 4))
        await drafted(drafter, work("moves", 5))
        await drafter.session("moves").close()
        await until(lambda: slow.closed == other.closed == ["moves"])


async def test_a_request_is_closed_where_none_of_its_ssms_is_wanted_any_more() -> None:
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, ToyLlm())
        ssm = await cluster.add_ssm(A, ToySsm())
        await until(lambda: cluster.takes_sessions(A))
        drafter = await drafter_of(cluster)
        await drafted(drafter, work("s", 3))
        with pytest.raises(StaleBaseError, match="none of its SSMs"):
            await drafted(drafter, replace(work("s", 4, 3), ssms=("another",)))
        await drafter.session("s").close()
        await until(lambda: ssm.closed == ["s"])


class _Asked:
    """An SSM service that is usable, and takes whatever it is asked."""

    is_usable = takes_sessions = True

    def __init__(self) -> None:
        self.session_ids: set[str] = set()
        self.works: list[DraftWork] = []

    def send(self, work: DraftWork) -> tuple[None, bool]:
        self.works.append(work)
        return None, False


def test_of_two_services_that_know_a_session_the_one_asked_last_goes_on() -> None:
    first, other = _Asked(), _Asked()
    members: list[Any] = [other]
    session = RemoteDrafterSession("s", lambda: members)
    session.ask(work("s", 3))
    members.insert(0, first)
    first.session_ids.add("s")
    session.ask(work("s", 4, base=3))
    assert (len(first.works), len(other.works)) == (0, 2)
