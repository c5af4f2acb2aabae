"""What a body may hold, and that large ones come one after another, and wait for nothing but one another: counted, not timed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel

from router.http.app import _handle_errors
from router.http.large_bodies import LARGE_BYTES, LargeBodies, converted, routes_in_turns
from router.json_values import SLICE_BYTES, marks_outside_texts, num_marks
from router.text_work import TextWork
from specgrove.errors import ResourceExhaustedError
from specgrove.tokenizer import Tokenizer
from tests.router.http.asking import ask, http_suite
from tests.waiting import LIMIT_S, until

LARGE = LARGE_BYTES * 2
Messages = list[dict[str, Any]]


async def test_a_body_of_too_many_values_is_refused_and_a_text_with_many_commas_is_not() -> None:
    async with http_suite() as suite:
        reply = await ask(suite, "/v1/completions", {"prompt": [1] * 140_000})
        assert (reply.status, reply.json["error"]["message"]) == (400, "request: the body has more than 131072 values")
        # Too long for the toy, which is what its text is refused for.
        reply = await ask(suite, "/v1/completions", {"prompt": ",:" * 70_000 + '"\\'})
        assert reply.status == 400
        assert "cannot fit" in reply.json["error"]["message"]


async def test_other_encodings_hide_no_values() -> None:
    async with http_suite() as suite:
        for num_values in (4, 70_000):
            # An escaped quote is one more byte there, and would begin a text.
            text = json.dumps({"a": '"', "prompt": [1] * num_values})
            for encoding in ("utf-16", "utf-16-le", "utf-32-be"):
                reply = await ask(suite, "/v1/completions", text.encode(encoding))
                assert (reply.status, reply.error["message"]) == (400, "request: the body must be JSON in UTF-8")
        reply = await ask(suite, "/v1/completions", b'\xef\xbb\xbf{"prompt": "x", "max_tokens": 1}')
        assert reply.status == 200


@pytest.mark.parametrize(
    ("content", "num_outside"),
    [
        (b'{"a": [1, 2], "b": {}}', 4),
        (b'{"a,:": ",,,\\",:", "b": 1}', 3),
        (b'["\\\\", 1, "\\\\\\"," , 2]', 3),
        (b'["never, ended', 0),
    ],
)
def test_marks_are_counted_outside_of_texts(content: bytes, num_outside: int) -> None:
    assert sum(marks_outside_texts(content)) == num_outside
    assert num_marks(content) >= num_outside


@pytest.mark.parametrize("num_before", range(SLICE_BYTES - 12, SLICE_BYTES + 2))
def test_slices_may_end_anywhere(num_before: int) -> None:
    content = b" " * num_before + rb'{",:": "\",\\", "b": 1}'
    assert sum(marks_outside_texts(content)) == 3
    assert sum(marks_outside_texts(content + content)) == 6


async def test_large_bodies_are_converted_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0
    run = LargeBodies.place

    def counted(bodies: LargeBodies, num_bytes: int) -> Any:
        place = run(bodies, num_bytes)
        in_thread = place.converted

        async def converted(convert: Callable[[], Any]) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)

            def last() -> Any:
                nonlocal under_way
                found = convert()
                under_way -= 1
                return found

            return await in_thread(last)

        monkeypatch.setattr(place, "converted", converted)
        return place

    monkeypatch.setattr(LargeBodies, "place", counted)
    async with http_suite() as suite:
        body = {"prompt": ["x" * 3000] * 12, "max_tokens": 1}
        replies = await asyncio.gather(*(ask(suite, "/v1/completions", body) for _ in range(4)))
    assert ["cannot fit" in reply.error["message"] for reply in replies] == [True] * 4
    assert most == 1


async def test_nobody_waits_for_what_a_large_body_asks_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    is_free = asyncio.Event()
    num_waiting = 0

    async def busy(self: TextWork, tokenizer: Tokenizer, function: Callable[[Tokenizer], Any]) -> Any:
        nonlocal num_waiting
        num_waiting += 1
        await is_free.wait()
        return function(tokenizer)

    monkeypatch.setattr(TextWork, "run_apart", busy)
    async with http_suite() as suite:
        texts = asyncio.create_task(ask(suite, "/detokenize", {"tokens": [10] * 12_000}))
        await until(lambda: num_waiting == 1)
        # Whose commas have to be counted, too.
        for body in ({"prompt": [1] * 20_000}, {"prompt": [1] * 16, "stop": ",:" * 70_000}):
            reply = await ask(suite, "/v1/completions", body | {"max_tokens": 1})
            assert reply.status == 400
        assert not texts.done()
        assert gc.isenabled()
        is_free.set()
        assert (await texts).status == 200


class Asked(BaseModel):
    prompt: str


class Gated:
    """An application whose endpoint waits in a conversion, of the body ``h``, until it may go on."""

    def __init__(self, large: LargeBodies) -> None:
        self.large = large
        self.may_go_on = threading.Event()
        self.converted: list[str] = []
        self.app = FastAPI()
        api = APIRouter(route_class=routes_in_turns(1 << 20, large))

        @api.post("/x")
        async def x(body: Asked, request: Request) -> dict[str, int]:
            await converted(request, functools.partial(self._convert, body.prompt[0]))
            return {}

        # FastAPI looks for its types in the module.
        x.__annotations__ |= {"body": Asked, "request": Request}
        self.app.include_router(api)
        _handle_errors(self.app, ())

    def _convert(self, name: str) -> None:
        self.converted.append(name)
        assert name != "h" or self.may_go_on.wait(LIMIT_S)

    async def ask(self, name: str, num_bytes: int = LARGE) -> tuple[int, dict[bytes, bytes]]:
        """By a client that stays; the body's text begins with ``name``."""
        body = json.dumps({"prompt": name * (num_bytes - 14)}).encode()
        return await self.sent({"type": "http.request", "body": body, "more_body": False})

    async def sent(self, *messages: Any, is_gone: asyncio.Event | None = None) -> tuple[int, dict[bytes, bytes]]:
        """The status and the fields. After its messages a client hangs up when ``is_gone``."""
        left, answers = list(messages), []
        hangs_up = is_gone or asyncio.Event()

        async def receive() -> Any:
            if not left:
                await hangs_up.wait()
                return {"type": "http.disconnect"}
            return left.pop(0)

        async def send(message: Any) -> None:
            answers.append(message)

        fields = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": fields}
        await self.app(scope, receive, send)
        return answers[0]["status"], dict(answers[0]["headers"])


@contextlib.asynccontextmanager
async def held(app: Gated) -> AsyncIterator[None]:
    """While a large body is being converted. At the end it was."""
    first = asyncio.create_task(app.ask("h"))
    await until(lambda: app.converted == ["h"])
    try:
        yield
    finally:
        app.may_go_on.set()
    assert (await first)[0] == 200


async def test_large_bodies_that_wait_have_a_bound() -> None:
    app = Gated(LargeBodies(2 * LARGE))
    async with held(app):
        second = asyncio.create_task(app.ask("2"))
        await until(lambda: app.large.num_bytes == 2 * LARGE)
        status, fields = await app.ask("3")
        assert status == 429
        assert int(fields[b"retry-after-ms"]) >= 1000
        assert (await app.ask("s", 100))[0] == 200
    assert (await second)[0] == 200
    assert app.converted == ["h", "s", "2"]
    # One that is larger than all that may wait has its turn where nothing does.
    assert app.large.num_bytes == 0
    assert (await app.ask("l", 3 * LARGE))[0] == 200


async def test_streams_go_on_between_two_bodies_and_garbage_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the event loop reads one large body or a few small ones; what is made of a large one is made beside it."""
    # What was read, what was converted of large ones, and the turns of a stream.
    seen: list[str] = []
    were_collecting: list[bool] = []
    read = Request.json

    async def pausing(seconds: float) -> None:
        assert seconds > 0
        seen.append("p")
        await asyncio.sleep(0)

    async def reading(request: Request) -> Any:
        found = await read(request)
        if hasattr(request.state, "is_read"):  # it was read in a turn of its own
            return found
        request.state.is_read = True
        seen.append("L" if len(await request.body()) >= LARGE_BYTES else "s")
        were_collecting.append(gc.isenabled())
        return found

    class Noted(Gated):
        def _convert(self, name: str) -> None:
            super()._convert(name)
            were_collecting.append(gc.isenabled())
            if threading.current_thread() is not threading.main_thread():
                seen.append("c")

    async def stream() -> None:
        while True:
            seen.append("-")
            await asyncio.sleep(0)

    monkeypatch.setattr(Request, "json", reading)
    app, streaming = Noted(LargeBodies(sleep=pausing)), asyncio.create_task(stream())
    bodies = [("l", LARGE), ("l", LARGE), *[("s", 100)] * 9, ("l", LARGE), ("l", LARGE)]
    async with asyncio.timeout(LIMIT_S):
        replies = await asyncio.gather(*(app.ask(*body) for body in bodies))
    streaming.cancel()
    assert [status for status, _ in replies] == [200] * len(bodies)
    assert all(were_collecting)
    # One after another, and converted by another thread.
    assert "".join(seen).replace("-", "").replace("s", "") == "Lpc" * 4
    turns = "".join(seen).replace("c", "").replace("p", "").split("-")
    assert sorted(filter(None, turns)) == ["L"] * 4 + ["sss"] * 3


async def test_who_hangs_up_before_its_turn_has_none() -> None:
    app = Gated(LargeBodies())
    is_gone = asyncio.Event()
    async with held(app):
        body = json.dumps({"prompt": "g" * LARGE}).encode()
        message = {"type": "http.request", "body": body, "more_body": False}
        gone = asyncio.create_task(app.sent(message, is_gone=is_gone))
        await until(lambda: app.large.num_bytes >= 2 * LARGE)
        cancelled = asyncio.create_task(app.ask("c"))
        await until(lambda: app.large.num_bytes >= 3 * LARGE)
        is_gone.set()
        cancelled.cancel()
    await gone
    assert (await app.ask("n"))[0] == 200
    assert app.converted == ["h", "n"]
    assert app.large.num_bytes == 0


async def test_a_body_that_is_refused_leaves_its_turn() -> None:
    app = Gated(LargeBodies())
    message = {"type": "http.request", "body": json.dumps({"prompt": [1] * LARGE}).encode(), "more_body": False}
    async with asyncio.timeout(LIMIT_S):
        for _ in range(2):
            assert (await app.sent(message))[0] == 400
        assert app.large.num_bytes == 0


async def test_a_place_can_be_left_before_its_end() -> None:
    bodies = LargeBodies(10)
    place = bodies.place(10)
    async with asyncio.timeout(LIMIT_S), place:
        with pytest.raises(ResourceExhaustedError, match="10 bytes wait to be read, and 10 may"):
            bodies.place(1)
        assert await place.converted(lambda: 3) == 3
        # Although the first one's answer isn't there yet.
        async with bodies.place(5):
            assert bodies.num_bytes == 5
        assert bodies.num_bytes == 0


async def test_a_client_that_hangs_up_in_the_middle_of_a_body_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    half = {"type": "http.request", "body": b'{"prompt":', "more_body": True}
    is_gone = asyncio.Event()
    is_gone.set()
    with caplog.at_level(logging.INFO):
        assert (await Gated(LargeBodies()).sent(half, is_gone=is_gone))[0] == 400
    assert not caplog.records
