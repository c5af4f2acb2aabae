"""Calls that are tried again: which, how often and when; and outputs that go on where they were cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgrove.client import AsyncClient, Client
from specgrove.client.connections import AsyncConnection, Connection
from specgrove.client.output import Chunk, PromptToken
from specgrove.client.retries import Generation, RetryPolicy, Tries
from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NoReplicaError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    UnauthorizedError,
    UnavailableError,
)
from specgrove.loop.works import LogProbs
from specgrove.v1 import router_pb2
from tests.fake_router import FakeRouter, running_router
from tests.waiting import LIMIT_S

AT_ONCE = RetryPolicy(max_num_retries=3, first_delay_s=0.0)
ANSWER = "The quick brown fox"
GONE = UnavailableError("the router is starting")
CANCELLED = SessionClosedError("the call was cancelled, by whomever")
FULL = ResourceExhaustedError("the queue is full", retry_delay_ms=1)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[tuple[FakeRouter, str]]:
    with running_router(tmp_path) as running:
        yield running


def outputs(address: str, **params: object) -> Iterator[list[Chunk]]:
    """What both clients stream."""
    with Client(address, retry=AT_ONCE) as client:
        yield list(client.generate("hi", **params))  # type: ignore[arg-type]

    async def generate() -> list[Chunk]:
        async with AsyncClient(address, retry=AT_ONCE) as client:
            return [chunk async for chunk in client.generate("hi", **params)]  # type: ignore[arg-type]

    yield asyncio.run(generate())


@pytest.mark.parametrize("failure", [GONE, FULL, CANCELLED], ids=["gone", "full", "cancelled"])
def test_what_fails_before_its_first_token_is_tried_again(
    router: tuple[FakeRouter, str], failure: SpecGroveError
) -> None:
    fake, address = router
    fake.failures = [(0, failure)] * 2
    for number, chunks in enumerate(outputs(address), start=1):
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert len(fake.requests) == 3 * number
        fake.failures = [(0, failure)] * 2


def test_tries_are_bounded(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(0, GONE)] * 10
    with Client(address, retry=AT_ONCE) as client, pytest.raises(UnavailableError, match="is starting"):
        client.complete("hi")
    assert len(fake.requests) == 1 + 3
    with Client(address, retry=None) as client, pytest.raises(UnavailableError):
        client.complete("hi")
    assert len(fake.requests) == 1 + 3 + 1


@pytest.mark.parametrize("num_pieces", [1, 2, 3])
def test_an_output_that_is_cut_off_goes_on_and_no_token_comes_twice(
    router: tuple[FakeRouter, str], num_pieces: int
) -> None:
    fake, address = router
    fake.failures = [(num_pieces, GONE)] * 2
    for chunks in outputs(address, temperature=0.7):
        assert [token.token_id for chunk in chunks for token in chunk.tokens] == [0, 1, 1, 2]
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        # Another seed would give another output.
        assert len({request.sampling.seed for request in fake.requests[-3:]}) == 1
        assert all(request.sampling.HasField("seed") for request in fake.requests)
        fake.failures = [(num_pieces, GONE)] * 2
    assert fake.requests[0].sampling.seed != fake.requests[-1].sampling.seed


def test_the_prompts_tokens_come_once_and_in_front(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(0, GONE), (1, GONE)]
    for chunks in outputs(address, num_prompt_log_probs=0):
        tokens = [token for chunk in chunks for token in chunk.prompt_tokens]
        assert tokens == [PromptToken(104, "h", None), PromptToken(105, "i", LogProbs(-2.0, 7))]
        assert all(not chunk.tokens for chunk in chunks if chunk.prompt_tokens)
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert all(chunk.tokens or chunk.text or chunk.prompt_tokens or chunk.finish_reason for chunk in chunks)
        fake.failures = [(0, GONE), (1, GONE)]


def test_a_cut_off_output_is_resumed_with_the_tokens_that_the_caller_has(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(1, GONE), (2, GONE)]
    for chunks in outputs(address, prompt_progress=True):
        assert [token.token_id for chunk in chunks for token in chunk.tokens] == [0, 1, 1, 2]
        assert [list(request.resume.token_ids) for request in fake.requests[-3:]] == [[], [0], [0, 1, 1]]
        assert [request.resume.numerics for request in fake.requests[-3:]] == ["", "fake", "fake"]
        # What was told of the prompt is not told again.
        assert [chunk.num_prompt_tokens_read for chunk in chunks].count(3) == 1
        fake.failures = [(1, GONE), (2, GONE)]


def test_tokens_that_come_set_the_count_of_retries_back(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.pieces = [[f"{number} "] for number in range(12)]
    fake.failures = [(number, GONE) for number in range(1, 12)]
    with Client(address, retry=RetryPolicy(max_num_retries=1, first_delay_s=0.0)) as client:
        assert client.complete("hi").text == "".join(f"{number} " for number in range(12))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("numerics", "other", "can't go on here: resume.numerics"), ("is_old", True, "of an older version")],
)
def test_another_models_output_is_no_continuation(
    router: tuple[FakeRouter, str], attribute: str, value: object, message: str
) -> None:
    fake, address = router
    with Client(address, retry=AT_ONCE) as client:
        fake.failures = [(2, GONE)]
        stream = client.generate("hi")
        assert next(stream).text == "The"
        assert next(stream).text == " quick brown"
        setattr(fake, attribute, value)
        with pytest.raises(UnavailableError, match=message):
            next(stream)
        assert len(fake.requests) == 2


def test_a_full_router_in_the_middle_of_an_output_ends_it(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(1, FULL)]
    with Client(address, retry=AT_ONCE) as client, pytest.raises(ResourceExhaustedError):
        client.complete("hi")
    assert len(fake.requests) == 1


def test_control_calls_are_tried_again(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.control_failures = [GONE, FULL]
    with Client(address, retry=AT_ONCE) as client:
        assert client.model_info().model == "fake"

    async def ask() -> str:
        async with AsyncClient(address, retry=AT_ONCE) as client:
            return (await client.model_info()).model

    fake.control_failures = [GONE, FULL]
    assert asyncio.run(ask()) == "fake"
    assert not fake.control_failures


def test_closing_a_client_ends_its_waiting(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(0, ResourceExhaustedError("full", retry_delay_ms=50_000))]
    client = Client(address)

    async def close_while_it_waits() -> None:
        waiting = asyncio.ensure_future(asyncio.to_thread(client.complete, "hi"))
        while not fake.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.to_thread(client.close)
        with pytest.raises(SessionClosedError):
            await waiting

    asyncio.run(asyncio.wait_for(close_while_it_waits(), LIMIT_S))

    async def close_async_while_it_waits() -> None:
        async_client = AsyncClient(address)
        waiting = asyncio.ensure_future(async_client.complete("hi"))
        while len(fake.requests) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await async_client.close()
        with pytest.raises(SessionClosedError):
            await waiting

    fake.failures = [(0, ResourceExhaustedError("full", retry_delay_ms=50_000))]
    asyncio.run(asyncio.wait_for(close_async_while_it_waits(), LIMIT_S))


def test_a_client_closed_before_it_waits_does_not_wait(tmp_path: Path) -> None:
    """It may be closed while the answer of a full router is on its way to the call."""
    address = f"unix:{tmp_path}/nobody.sock"
    connection = Connection(address, None)
    connection.close()
    connection.wait(2 * LIMIT_S)

    async def wait_when_closed() -> None:
        async_connection = AsyncConnection(address, None)
        await async_connection.close()
        await async_connection.wait(2 * LIMIT_S)

    asyncio.run(asyncio.wait_for(wait_when_closed(), LIMIT_S))


def test_a_router_that_is_started_again_and_full_is_waited_for(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(2, GONE), (0, FULL), (0, FULL)]
    for chunks in outputs(address):
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        fake.failures = [(2, GONE), (0, FULL), (0, FULL)]


def delays(policy: RetryPolicy, error: SpecGroveError, timeout_s: float | None = None) -> list[float]:
    tries = Tries(policy, timeout_s, Random(0))
    found = []
    with contextlib.suppress(type(error)):
        while len(found) < 20:
            found.append(tries.delay_s(error, was_reached=True))
    return found


def test_delays_double_and_half_of_each_is_random() -> None:
    found = delays(RetryPolicy(max_num_retries=5, first_delay_s=0.1, max_delay_s=0.5), GONE)
    for delay_s, longest_s in zip(found, [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
        assert longest_s / 2 <= delay_s <= longest_s
    assert len({round(delay_s / 0.1, 6) for delay_s in found}) == 5


def test_a_hint_is_waited_for_and_a_tenth_more_at_most() -> None:
    found = delays(RetryPolicy(max_num_retries=2), ResourceExhaustedError("full", retry_delay_ms=2000))
    assert len(found) == 2
    assert all(2.0 <= delay_s <= 2.2 for delay_s in found)
    assert delays(RetryPolicy(max_delay_s=1.0), ResourceExhaustedError("full", retry_delay_ms=2000)) == []


def test_no_try_begins_after_the_calls_time() -> None:
    assert delays(RetryPolicy(), ResourceExhaustedError("full", retry_delay_ms=9000), timeout_s=8.0) == []


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceededError("late"), InternalError("defect"), InvalidRequestError.of("text", "is empty"),
        UnauthorizedError("who are you?"), SessionClosedError("closed"), UnavailableError("no LLM", may_retry=False),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_another_try_cannot_mend_is_told_at_once(error: SpecGroveError) -> None:
    assert delays(RetryPolicy(), error) == []


def test_a_router_that_waited_for_a_replica_is_not_asked_again(router: tuple[FakeRouter, str]) -> None:
    fake, address = router
    fake.failures = [(0, NoReplicaError("no LLM service in 300 s"))]
    with Client(address, retry=AT_ONCE) as client, pytest.raises(UnavailableError, match="no LLM service"):
        client.complete("hi")
    assert len(fake.requests) == 1


def test_where_no_router_ever_was_there_is_no_waiting_for_one() -> None:
    refused = UnavailableError("failed to connect to all addresses; last error: Connection refused")
    with pytest.raises(UnavailableError):
        Tries(RetryPolicy(), None).delay_s(refused, was_reached=False)
    assert Tries(RetryPolicy(), None).delay_s(refused, was_reached=True) > 0
    # One that answers, but not yet with outputs, is there.
    assert Tries(RetryPolicy(), None).delay_s(GONE, was_reached=False) > 0


@st.composite
def streams(draw: st.DrawFn, words: list[str], num_resumed: int) -> list[router_pb2.GenerateResponse]:
    """The tokens behind the resumed ones in any pieces; the text of each token is held back until the next one."""
    pieces, place = [], num_resumed
    while place < len(words):
        size = draw(st.integers(1, 3))
        end = min(place + size, len(words))
        ids = [router_pb2.GeneratedToken(token_id=ord(word[0])) for word in words[place:end]]
        text = "".join(words[max(place - 1, 0) : end - 1])
        pieces.append(router_pb2.GenerateResponse(tokens=ids, text=text))
        place = end
    pieces.append(router_pb2.GenerateResponse(text=words[-1], finish_reason=router_pb2.FINISH_REASON_STOP))
    pieces[0].num_resumed_tokens = num_resumed
    return pieces


WORDS = ["a", "bc", "def", "g", "hi", "jkl", "m"]


@given(st.data())
def test_tries_in_other_pieces_join_to_one_output(data: st.DataObject) -> None:
    generation = Generation("hi", {}, RetryPolicy())
    chunks: list[Chunk] = []
    for _ in range(data.draw(st.integers(0, 3))):
        generation.begin_try()
        cut_off = data.draw(streams(WORDS, len(generation.request.resume.token_ids)))
        for response in cut_off[: data.draw(st.integers(0, len(cut_off) - 1))]:
            chunks += generation.rest_of(response)
    generation.begin_try()
    for response in data.draw(streams(WORDS, len(generation.request.resume.token_ids))):
        chunks += generation.rest_of(response)
    assert [token.token_id for chunk in chunks for token in chunk.tokens] == [ord(word[0]) for word in WORDS]
    assert "".join(chunk.text for chunk in chunks) == "".join(WORDS)
    assert [chunk.finish_reason is not None for chunk in chunks] == [*[False] * (len(chunks) - 1), True]
