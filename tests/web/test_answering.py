"""What is shown while an answer comes from a made-up router, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from specgrove.client import AsyncClient
from specgrove.errors import InternalError
from specgrove.web.answering import ChatView, Visitor, chat, compare
from specgrove.web.conversation import ChatOptions
from tests.fake_router import FakeRouter, running_router

Router = tuple[FakeRouter, AsyncClient]


@pytest_asyncio.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    with running_router(tmp_path) as (fake, address):
        async with AsyncClient(address, retry=None) as client:
            yield fake, client


async def visitor_of(client: AsyncClient) -> Visitor:
    visitor = Visitor()
    visitor.info = await client.model_info()
    return visitor


async def test_a_conversation_goes_on(router: Router) -> None:
    fake, client = router
    visitor = await visitor_of(client)
    first = [view async for view in chat(client, visitor, "one", ChatOptions())]
    assert first[0].is_answering
    assert first[0].question == ""
    assert "one" in (first[0].history or "")
    assert not first[-1].is_answering
    assert "quick" in (first[-1].history or "")
    assert "3 steps" in (first[-1].chart or "")
    assert "accepted" in (first[-1].tree or "")
    async for _ in chat(client, visitor, "two", ChatOptions(system="Be brief.")):
        pass
    sent = [(message.role, message.content) for message in fake.requests[1].chat.messages]
    answer = ("assistant", "The quick brown fox")
    assert sent == [("system", "Be brief."), ("user", "one"), answer, ("user", "two")]
    assert all(request.step_details for request in fake.requests)


async def test_stop_keeps_what_came(router: Router) -> None:
    fake, client = router
    visitor = await visitor_of(client)
    fake.is_endless = True
    views: list[ChatView] = []
    async for view in chat(client, visitor, "one", ChatOptions()):
        views.append(view)
        if "fox" in (view.live or ""):
            visitor.conversation.stop()
    assert not views[-1].is_answering
    assert "stopped · 4 tokens" in (views[-1].history or "")
    await asyncio.to_thread(fake.was_cancelled.wait)


async def test_whoever_leaves_ends_the_request(router: Router) -> None:
    fake, client = router
    visitor = await visitor_of(client)
    fake.is_endless = True
    views = chat(client, visitor, "one", ChatOptions())
    async for view in views:
        if view.live:
            break
    await views.aclose()
    await asyncio.to_thread(fake.was_cancelled.wait)


async def test_a_question_that_fails_comes_back_and_is_told(router: Router) -> None:
    fake, client = router
    visitor = await visitor_of(client)
    fake.failures = [(0, InternalError("out of paper"))]
    *_, last = [view async for view in chat(client, visitor, "one", ChatOptions())]
    assert "error: out of paper" in (last.history or "")
    assert last.question == "one"
    async for _ in chat(client, visitor, "two", ChatOptions()):
        pass
    assert [message.content for message in fake.requests[1].chat.messages] == ["two"]


async def test_a_comparison_asks_the_same_twice(router: Router) -> None:
    fake, client = router
    visitor = await visitor_of(client)
    *_, last = [view async for view in compare(client, visitor, "one", ChatOptions(temperature=1.0))]
    assert last.verdict is not None
    assert "The same text" in last.verdict
    speculative, incremental = fake.requests
    assert [request.speculation.disabled for request in fake.requests] == [False, True]
    incremental.speculation.disabled = False
    assert speculative == incremental
    assert speculative.sampling.HasField("seed")
