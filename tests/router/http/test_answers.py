"""How answers are sent, apart from what they say."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from router.http.answers import Json, StreamedAnswer, WholeAnswer
from router.http.long_answers import LongAnswers
from router.http.outputs import Piece
from specgrove.v1 import router_pb2
from tests.waiting import LIMIT_S, until


class Plain:
    """The texts alone."""

    end = b"[DONE]"

    def opening(self) -> Iterable[Json]:
        return ()

    def chunks(self, piece: Piece) -> Iterable[Json]:
        yield {"text": piece.text}

    def closing(self) -> Iterable[Json]:
        return ()

    def whole(self, pieces: Sequence[Piece]) -> Json:
        return {"text": "".join(piece.text for piece in pieces)}


LONG = LongAnswers()
MADE_BESIDE = functools.partial(LONG.made, "client")


async def sent(
    pieces: AsyncGenerator[Piece, None],
    *,
    is_stream: bool,
    form: Plain = Plain(),  # noqa: B008
) -> tuple[int, bytes]:
    """The status and the body for a client that stays."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(LIMIT_S):
        answer = StreamedAnswer(pieces, form, LIMIT_S) if is_stream else WholeAnswer(pieces, form, LIMIT_S, MADE_BESIDE)
        await answer({"type": "http"}, receive, send)
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages)


async def test_no_line_ends_amid_an_event_whatever_ends_lines_to_its_reader() -> None:
    text = "a\u2028b\u2029c\x85d\x0b木\n"

    async def pieces() -> AsyncGenerator[Piece, None]:
        yield Piece(0, text)

    _, events = await sent(pieces(), is_stream=True)
    lines = events.decode().splitlines()
    assert [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data:")] == [{"text": text}]
    assert "木" in events.decode()


async def test_a_limit_of_time_within_is_no_client_that_reads_nothing() -> None:
    async def pieces() -> AsyncGenerator[Piece, None]:
        yield Piece(0, "a")
        raise TimeoutError

    status, body = await sent(pieces(), is_stream=True)
    assert status == 200
    assert json.loads(body.split(b"data: ")[2])["error"]["code"] == "internal_error"
    assert b"[DONE]" not in body


@pytest.mark.parametrize(
    "first",
    [
        Piece(0, "a", [router_pb2.GeneratedToken()]),
        Piece(0, "a", [router_pb2.GeneratedToken()] * 5000),
        Piece(0, "a", prompt_tokens=[router_pb2.PromptToken()] * 5000),
    ],
    ids=["short", "long", "with a long prompt"],
)
async def test_long_answers_are_put_together_beside_the_event_loop(first: Piece) -> None:
    async def pieces() -> AsyncGenerator[Piece, None]:
        yield first
        yield Piece(0, "b")

    threads: list[threading.Thread] = []

    class Watched(Plain):
        def whole(self, pieces: Sequence[Piece]) -> Json:
            threads.append(threading.current_thread())
            return super().whole(pieces)

    assert await sent(pieces(), is_stream=False, form=Watched()) == (200, b'{"text":"ab"}')
    is_long = len(first.tokens) + len(first.prompt_tokens) > 1
    assert (threads[0] is not threading.current_thread()) == is_long


async def test_clients_have_the_thread_for_long_answers_in_turn() -> None:
    may_go_on, made, answers = threading.Event(), [], LongAnswers()

    def make(name: str) -> bytes:
        assert may_go_on.wait(LIMIT_S)
        made.append(name)
        return name.encode()

    names = ["a1", "a2", "a3", "a4", "b1", "b2"]
    asked = {name: asyncio.create_task(answers.made(name[0], functools.partial(make, name))) for name in names}
    await asyncio.sleep(0)
    asked["a2"].cancel()  # its client hung up
    may_go_on.set()
    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.gather(*asked.values(), return_exceptions=True)
        assert await answers.made("a", lambda: b"later") == b"later"
    assert made == ["a1", "b1", "a3", "b2", "a4"]
    assert found[0] == b"a1"


async def test_long_answers_take_no_thread_but_theirs() -> None:
    may_go_on = threading.Event()
    num_begun = 0

    class Held(Plain):
        def whole(self, pieces: Sequence[Piece]) -> Json:
            nonlocal num_begun
            num_begun += 1
            assert may_go_on.wait(LIMIT_S)
            return super().whole(pieces)

    async def pieces() -> AsyncGenerator[Piece, None]:
        yield Piece(0, "a", [router_pb2.GeneratedToken()] * 5000)

    num_threads = 2
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(num_threads))
    answers = [asyncio.create_task(sent(pieces(), is_stream=False, form=Held())) for _ in range(num_threads + 1)]
    try:
        await until(lambda: num_begun > 0)
        # What else needs a thread gets one.
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.to_thread(lambda: num_begun) == 1
    finally:
        may_go_on.set()
    assert await asyncio.gather(*answers) == [(200, b'{"text":"a"}')] * 3
    assert num_begun == 3


async def test_who_hangs_up_before_its_answer_is_put_together_leaves_nothing() -> None:
    may_go_on = threading.Event()
    LONG._thread.submit(may_go_on.wait, LIMIT_S)
    is_gone = asyncio.Event()
    is_waiting = asyncio.Event()
    made: list[weakref.ref[Piece]] = []

    class Never(Plain):
        def whole(self, pieces: Sequence[Piece]) -> Json:
            raise AssertionError

    async def pieces() -> AsyncGenerator[Piece, None]:
        piece = Watched(0, "a", [router_pb2.GeneratedToken()] * 5000)
        made.append(weakref.ref(piece))
        yield piece
        del piece
        is_waiting.set()

    async def receive() -> Any:
        await is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError

    answering = asyncio.create_task(
        WholeAnswer(pieces(), Never(), LIMIT_S, MADE_BESIDE)({"type": "http"}, receive, send)
    )
    await is_waiting.wait()
    is_gone.set()
    try:
        await answering
    finally:
        may_go_on.set()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.wrap_future(LONG._thread.submit(lambda: None))
    gc.collect()
    assert made[0]() is None


class Watched(Piece):
    """One of which one can tell when it is gone."""

    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("num_tokens", [1, 5000], ids=["short", "long"])
async def test_a_whole_answer_that_nobody_reads_ends_and_holds_nothing_but_its_bytes(
    num_tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[weakref.ref[Piece]] = []
    were_there: list[bool] = []
    sizes: list[int] = []

    async def pieces() -> AsyncGenerator[Piece, None]:
        piece = Watched(0, "a" * 1_000_000, [router_pb2.GeneratedToken()] * num_tokens)
        made.append(weakref.ref(piece))
        yield piece

    async def send(message: Any) -> None:
        were_there.append(made[0]() is not None)
        if message["type"] == "http.response.body":
            sizes.append(len(message["body"]))
            # The first part fits into the buffers.
            if len(sizes) == 2:
                await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    with caplog.at_level(logging.INFO):
        async with asyncio.timeout(LIMIT_S):
            await WholeAnswer(pieces(), Plain(), 0.05, MADE_BESIDE)({"type": "http"}, receive, send)
    # Not because the test's limit is over.
    assert [record.getMessage() for record in caplog.records] == [
        "a client has read nothing for 0.05 s; its request was ended"
    ]
    assert sizes == [1 << 18, 1 << 18]
    assert were_there == [False] * 3
