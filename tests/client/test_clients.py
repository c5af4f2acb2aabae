"""The clients against a router that is made up: what they send, what they make of answers and failures, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from specgrove.client import AsyncClient, Client
from specgrove.client.output import Completion, StepDetails, VerifiedNode
from specgrove.client.wire import request_to_proto
from specgrove.errors import (
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    SessionClosedError,
    UnavailableError,
)
from specgrove.loop.output import FinishReason
from specgrove.loop.request import SpeculationOptions
from specgrove.loop.works import LogProbs
from tests.fake_router import FakeRouter, running_router
from tests.waiting import LIMIT_S


@pytest.fixture
def router(tmp_path: Path) -> Iterator[tuple[FakeRouter, str]]:
    with running_router(tmp_path) as running:
        yield running


@pytest.fixture
def client(router: tuple[FakeRouter, str]) -> Iterator[Client]:
    with Client(router[1]) as connected:
        yield connected


@pytest.fixture
async def async_client(router: tuple[FakeRouter, str]) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(router[1]) as connected:
        yield connected


def check_completion(completion: Completion) -> None:
    assert completion.text == "The quick brown fox"
    assert completion.token_ids == (0, 1, 1, 2)
    assert [token.drafted_by for token in completion.tokens] == [(), ("lookup",), ("lookup",), ("lookup",)]
    assert completion.tokens[0].log_probs == LogProbs(-0.5, 1)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.usage.acceptance_histogram == (2, 1)
    assert completion.usage.tokens_per_s == pytest.approx(100)
    assert completion.usage.mean_acceptance_len == pytest.approx(4 / 3)


def test_complete(client: Client) -> None:
    check_completion(client.complete("hi"))


def test_the_prompts_progress_is_a_chunk_without_tokens(client: Client) -> None:
    progress, *chunks = client.generate("hi", prompt_progress=True)
    assert (progress.num_prompt_tokens_read, progress.tokens, progress.text) == (3, (), "")
    assert all(chunk.num_prompt_tokens_read is None for chunk in chunks)
    check_completion(client.complete("hi", prompt_progress=True))


def test_chunks_tell_how_they_came_about_where_that_is_asked_for(client: Client) -> None:
    *chunks, last = client.generate("hi", step_details=True)
    nodes = (
        VerifiedNode(7, "The", None, 0.0, (), False),
        VerifiedNode(8, " quick", 0, -0.5, ("lookup",), True),
        VerifiedNode(9, "\N{REPLACEMENT CHARACTER}", 0, -1.0, ("demo", "lookup"), False),
    )
    assert [chunk.step_details for chunk in chunks] == [StepDetails(1, 2.0, 3.0, nodes)] * 3
    assert last.step_details is None
    assert all(chunk.step_details is None for chunk in client.generate("hi"))


@pytest.mark.parametrize(("prompt", "expected"), [("hi", None), ("stop text", "fox"), ("stop token", 0)])
def test_what_ended_the_output_is_told(client: Client, prompt: str, expected: str | int | None) -> None:
    assert client.complete(prompt).stop_reason == expected
    assert list(client.generate(prompt))[-1].stop_reason == expected


async def test_complete_async(async_client: AsyncClient) -> None:
    check_completion(await async_client.complete("hi"))


def test_parameters_that_are_left_out_stay_unset() -> None:
    request = request_to_proto("hi", seed=None)
    assert not request.sampling.HasField("seed")
    assert not request.sampling.HasField("top_p")
    assert request.WhichOneof("prompt") == "text"
    request = request_to_proto(
        [("user", "hi"), ("assistant", "ho")],
        top_p=0.5,
        seed=7,
        logit_bias={3: -1.0},
        stop_token_ids=[1],
        stop=["\n"],
        speculation=SpeculationOptions(disabled=True),
    )
    assert (request.sampling.top_p, request.sampling.seed, dict(request.sampling.logit_bias)) == (0.5, 7, {3: -1.0})
    assert list(request.sampling.stop_token_ids) == [1]
    assert [message.role for message in request.chat.messages] == ["user", "assistant"]
    assert request.speculation.disabled
    assert list(request_to_proto([5, 6]).token_ids.token_ids) == [5, 6]


@pytest.mark.parametrize(
    ("prompt", "params", "field"),
    [
        ("hi", {"max_tokens": -1}, "max_tokens"),
        ("hi", {"top_k": 1 << 40}, "sampling.top_k"),
        ("hi", {"temperature": "hot"}, "sampling.temperature"),
        ([1, -2], {}, "token_ids.token_ids"),
        ([("user",)], {}, "chat.messages[0]"),
        ([("user", 5)], {}, "chat.messages[0].content"),
    ],
)
def test_values_that_fit_no_field_name_it(prompt, params, field) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequestError) as caught:
        request_to_proto(prompt, **params)
    assert caught.value.violations[0].field == field


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown parameters of generate: temprature"):
        request_to_proto("hi", temprature=1)  # type: ignore[call-arg]


def test_failures_have_our_types_and_their_details(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as invalid:
        client.complete("invalid")
    assert invalid.value.violations[0].field == "sampling.top_p"
    with pytest.raises(ResourceExhaustedError) as full:
        client.complete("full")
    assert full.value.retry_delay_ms == 250
    with pytest.raises(InternalError, match="without a finish reason"):
        client.complete("truncated")


async def test_failures_async(async_client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match="top_p"):
        await async_client.complete("invalid")


def test_no_router_is_unavailable() -> None:
    with Client("unix:/nowhere/router.sock") as nowhere, pytest.raises(UnavailableError):
        nowhere.complete("hi")


def test_closing_the_iterator_cancels(router: tuple[FakeRouter, str], client: Client) -> None:
    stream = client.generate("endless")
    assert next(stream).text == "The"
    stream.close()
    assert router[0].was_cancelled.wait(LIMIT_S)


async def test_closing_the_async_iterator_cancels(router: tuple[FakeRouter, str], async_client: AsyncClient) -> None:
    stream = async_client.generate("endless")
    assert (await anext(stream)).text == "The"
    await stream.aclose()
    assert await asyncio.to_thread(router[0].was_cancelled.wait, LIMIT_S)


async def test_control_calls(client: Client, async_client: AsyncClient) -> None:
    assert await asyncio.to_thread(client.model_info) == await async_client.model_info()
    assert (await async_client.model_info()).ssms == ("lookup", "demo")
    assert await asyncio.to_thread(client.tokenize, "abc") == await async_client.tokenize("abc") == (0, 1, 2)
    assert await async_client.tokenize([("user", "abc")]) == (0,)
    assert await asyncio.to_thread(client.detokenize, [4, 2]) == await async_client.detokenize([4, 2]) == "4 2"


def test_a_closed_client_says_so(router: tuple[FakeRouter, str]) -> None:
    client = Client(router[1])
    stream = client.generate("endless")
    assert next(stream).text == "The"
    client.close()
    client.close()
    for call in (lambda: list(stream), client.model_info, lambda: client.complete("hi"), lambda: client.tokenize("hi")):
        with pytest.raises(SessionClosedError):
            call()
    with pytest.raises(SessionClosedError, match="closed"):
        client.detokenize([1])


async def test_a_closed_async_client_says_so(router: tuple[FakeRouter, str]) -> None:
    client = AsyncClient(router[1])
    stream = client.generate("endless")
    assert (await anext(stream)).text == "The"
    completing = asyncio.create_task(client.complete("endless"))
    await asyncio.sleep(0)
    await client.close()
    await client.close()
    for call in (completing, anext(stream), client.model_info(), client.complete("hi"), client.tokenize("hi")):
        with pytest.raises(SessionClosedError, match="closed"):
            await call


async def test_a_task_that_is_cancelled_stays_cancelled(router: tuple[FakeRouter, str]) -> None:
    async with AsyncClient(router[1]) as client:
        stream = client.generate("endless")
        assert (await anext(stream)).text == "The"
        task = asyncio.ensure_future(_rest(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _rest(stream: AsyncIterator[object]) -> list[object]:
    return [chunk async for chunk in stream]


def test_an_async_client_is_made_without_a_loop_and_used_in_several(router: tuple[FakeRouter, str]) -> None:
    client = AsyncClient(router[1])

    async def complete() -> Completion:
        info = await client.model_info()
        assert info.model == "fake"
        return await client.complete("hi")

    async def complete_in_a_thread_too() -> Completion:
        stream = client.generate("endless")
        await anext(stream)
        await asyncio.to_thread(asyncio.run, complete())
        completion = await complete()
        await client.close()
        with pytest.raises(SessionClosedError):
            await anext(stream)
        return completion

    check_completion(asyncio.run(complete()))
    check_completion(asyncio.run(complete()))
    check_completion(asyncio.run(complete_in_a_thread_too()))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:1", "localhost:99999", None, b"localhost:1"])
def test_an_address_that_is_none_is_told_at_once(kind: type[Client] | type[AsyncClient], address: str) -> None:
    with pytest.raises(ValueError, match="address must be"):
        kind(address)
