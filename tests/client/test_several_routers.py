"""One client, several addresses: where a router is gone, or full, the next one goes on. Made-up routers on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import AsyncClient, Client
from specgrove.client.output import Chunk
from specgrove.client.retries import RetryPolicy
from specgrove.client.routers import addresses_of
from specgrove.errors import ResourceExhaustedError, UnavailableError
from tests.fake_router import FakeRouter, running_router

ANSWER = "The quick brown fox"
GONE = UnavailableError("the router is going away")
FULL = ResourceExhaustedError("the queue is full", retry_delay_ms=600_000)
NO_WAITING = RetryPolicy(max_num_retries=2, first_delay_s=0.0, max_delay_s=0.0)
Router = tuple[FakeRouter, str]


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[tuple[Router, Router]]:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with running_router(folders[0]) as first, running_router(folders[1]) as second:
        yield first, second


def outputs(addresses: str | list[str]) -> Iterator[list[Chunk]]:
    """What both clients stream."""
    with Client(addresses, retry=NO_WAITING) as client:
        yield list(client.generate("hi"))

    async def generate() -> list[Chunk]:
        async with AsyncClient(addresses, retry=NO_WAITING) as client:
            return [chunk async for chunk in client.generate("hi")]

    yield asyncio.run(generate())


@pytest.mark.parametrize("num_pieces", [0, 1, 2, 3])
def test_the_next_router_goes_on_where_the_first_left_off(routers: tuple[Router, Router], num_pieces: int) -> None:
    (first, address), (second, other) = routers
    first.failures = [(num_pieces, GONE)]
    for number, chunks in enumerate(outputs(f"{address}, {other}"), start=1):
        assert [token.token_id for chunk in chunks for token in chunk.tokens] == [0, 1, 1, 2]
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert (len(first.requests), len(second.requests)) == (number, number)
        assert list(second.requests[-1].resume.token_ids) == [0, 1, 1, 2][: (0, 1, 3, 4)[num_pieces]]
        first.failures = [(num_pieces, GONE)]


@pytest.mark.parametrize("failure", [GONE, FULL, UnavailableError("no LLM", may_retry=False)], ids=str)
def test_another_router_is_asked_at_once(routers: tuple[Router, Router], failure: Exception) -> None:
    (first, address), (second, other) = routers
    for chunks in outputs([address, other]):
        assert "".join(chunk.text for chunk in chunks) == ANSWER
    first.failures, second.failures = [(0, failure)], []  # type: ignore[list-item]
    with Client([address, other], retry=NO_WAITING) as client:
        assert client.complete("hi").text == ANSWER
        num = len(first.requests)
        # It stays with the one that answers.
        assert client.complete("hi").text == ANSWER
        assert client.model_info().model == "fake"
        assert len(first.requests) == num


def test_an_address_where_nobody_is_is_passed_over(routers: tuple[Router, Router], tmp_path: Path) -> None:
    _, (_, other) = routers
    nobody = f"unix:{tmp_path}/nobody.sock"
    for chunks in outputs([nobody, other]):
        assert "".join(chunk.text for chunk in chunks) == ANSWER
    with Client([nobody, other], retry=NO_WAITING) as client:
        assert client.model_info().model == "fake"
    with (
        Client([nobody, f"{nobody}2"], retry=NO_WAITING) as client,
        pytest.raises(UnavailableError, match="failed to connect"),
    ):
        client.complete("hi")


def test_a_router_with_another_model_is_passed_over(routers: tuple[Router, Router]) -> None:
    (first, address), (second, other) = routers
    second.numerics = "other"
    first.failures = [(2, GONE)]
    for chunks in outputs([address, other]):
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert list(first.requests[-1].resume.token_ids) == [0, 1, 1]
        first.failures = [(2, GONE)]


def test_rounds_are_bounded(routers: tuple[Router, Router]) -> None:
    (first, address), (second, other) = routers
    first.failures, second.failures = [(0, GONE)] * 9, [(0, GONE)] * 9
    with Client([address, other], retry=NO_WAITING) as client, pytest.raises(UnavailableError, match="going away"):
        client.complete("hi")
    assert len(first.requests) == len(second.requests) == 3
    with Client([address, other], retry=None) as client, pytest.raises(UnavailableError):
        client.complete("hi")
    assert (len(first.requests), len(second.requests)) == (4, 3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a:1", ("a:1",)),
        ("a:1,b:2", ("a:1", "b:2")),
        (" a:1 , unix:/x ,a:1", ("a:1", "unix:/x")),
        (["a:1", "unix:/x"], ("a:1", "unix:/x")),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", ("ipv4:10.0.0.1:1,10.0.0.2:1",)),
    ],
)
def test_addresses_are_a_text_or_a_list(given: str | list[str], found: tuple[str, ...]) -> None:
    assert addresses_of(given) == found


@pytest.mark.parametrize("given", ["", "a:1,", "a:1 b:2", [], ["a"], ["unix:/x,y"], 7, None, [None]], ids=str)
def test_wrong_addresses_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="address"):
        addresses_of(given)  # type: ignore[arg-type]
