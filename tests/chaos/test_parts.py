"""The harness itself can fail: outputs that differ are told apart, links do what they say, and a seed is a sequence."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.chaos.faults import faults
from benchmarks.chaos.fleet import Fleet, FleetShape
from benchmarks.chaos.links import Link
from benchmarks.chaos.load import PATIENT, Load, beginning_problem, cases, whole_problem
from router.retry_delays import MAX_RETRY_DELAY_MS
from specgrove.client.answers import completion_of
from specgrove.client.output import Chunk, Completion, OutputToken, Usage
from specgrove.loop.output import FinishReason
from tests.waiting import LIMIT_S

LETTERS = "abcdefghijklmnopqrst"


def usage_of(num_tokens: int) -> Usage:
    return Usage(3, num_tokens, num_tokens, (), (), (), 0, 1.0, 1.0, 0.0, 0.0, 0, 7)


def chunks_of(letters: str, *, is_whole: bool = True) -> list[Chunk]:
    chunks = [Chunk((OutputToken(ord(letter), letter),), letter) for letter in letters]
    return [*chunks, Chunk((), "", FinishReason.LENGTH, usage_of(len(letters)))] if is_whole else chunks


EXPECTED: Completion = completion_of(chunks_of(LETTERS))


@pytest.mark.parametrize(
    ("letters", "problem"),
    [
        (LETTERS, None),
        (LETTERS[:-1], "lost"),
        (LETTERS + "u", "repeated"),
        (LETTERS[:10] + LETTERS[5:], "repeated"),
        (LETTERS[:10] + LETTERS[11:], "changed"),
        ("x" + LETTERS[1:], "changed"),
    ],
)
def test_outputs_that_differ_are_told_apart(letters: str, problem: str | None) -> None:
    found = whole_problem(chunks_of(letters), EXPECTED)
    assert (found is None) if problem is None else (found or "").startswith(problem)


def test_a_stream_without_an_end_has_lost_something() -> None:
    assert (whole_problem(chunks_of(LETTERS, is_whole=False), EXPECTED) or "").startswith("lost")
    assert (whole_problem([], EXPECTED) or "").startswith("lost")


def test_a_beginning_is_all_that_somebody_who_leaves_has() -> None:
    assert beginning_problem(chunks_of(LETTERS[:7], is_whole=False), EXPECTED) is None
    assert beginning_problem([], EXPECTED) is None
    assert beginning_problem(chunks_of("ax", is_whole=False), EXPECTED) is not None


def test_a_seed_is_a_sequence() -> None:
    fleet = Fleet(Path("nowhere"), FleetShape(), lambda name, line: None)
    first, again, other = (list(itertools.islice(faults(seed, fleet, 1.0), 50)) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} >= {"kill", "term", "stop", "cut"}
    assert cases(3, 10) == cases(3, 10) != cases(4, 10)


class Echo:
    """A server that answers with what it gets, through a link."""

    def __init__(self) -> None:
        self.link: Link
        self.num_ended = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except OSError:
            pass
        self.num_ended += 1
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    found = Echo()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.link = Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await found.link.start()
    yield found
    await found.link.close()
    server.close()


async def connected(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = link.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_a_link_carries_stalls_and_goes_on(echo: Echo) -> None:
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await connected(echo.link)
        echo.link.stall()
        writer.write(b"later")
        reading = asyncio.ensure_future(reader.readexactly(5))
        await asyncio.sleep(0.05)
        assert not reading.done()
        echo.link.flow()
        assert await reading == b"later"
        writer.close()


async def test_a_link_cuts_and_half_closes(echo: Echo) -> None:
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await connected(echo.link)
        echo.link.half_close()
        # The server has seen the end, and ends; so the client does.
        assert await reader.read() == b""
        writer.close()
        reader, writer = await connected(echo.link)
        echo.link.cut()
        with pytest.raises(OSError):  # noqa: PT011  # reset, by either side
            await reader.readexactly(1)


def test_clients_wait_for_as_long_as_a_full_router_may_ask_for() -> None:
    """Who gives up has lost an output, and that would tell nothing about the services."""
    assert PATIENT.max_delay_s >= MAX_RETRY_DELAY_MS / 1000


async def test_a_request_has_all_the_time_till_the_faults_have_ended(tmp_path: Path) -> None:
    load = Load(Fleet(tmp_path, FleetShape(), lambda name, line: None), [], 0, 1)
    async with load.limited() as early:
        assert early.when() is None
        load.stop()
        assert early.when() is not None
    async with load.limited() as late:
        assert late.when() is not None
