"""What clients are told where a router is full, ends or fails: a status, or an event of a stream that has begun."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from specgrove.errors import InternalError
from tests.router.http.asking import PROMPT, api_of, ask, http_suite, text_of
from tests.router.toy_services import ToyLlm, halting_llm
from tests.waiting import LIMIT_S, until

COMPLETIONS = "/v1/completions"


async def test_who_finds_no_place_is_told_when_to_come_again() -> None:
    async with http_suite(halting_llm(1), max_num_requests=1, max_num_queued=0) as suite:
        first = asyncio.create_task(ask(suite, COMPLETIONS, {"prompt": PROMPT, "seed": 0}))
        await until(lambda: suite.app.admission.num_active == 1)
        reply = await ask(suite, COMPLETIONS, {"prompt": "x", "stream": True})
        assert (reply.status, reply.error["type"], reply.error["code"]) == (
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
        )
        assert int(reply.headers["retry-after"]) * 1000 >= int(reply.headers["retry-after-ms"]) >= 1
        suite.llm.gate.set()
        assert (await first).json["choices"][0]["text"] == text_of(num_tokens=16)


async def test_a_request_that_takes_too_long_is_not_to_be_sent_again() -> None:
    async with http_suite(halting_llm(1), max_request_s=0.2) as suite:
        reply = await ask(suite, COMPLETIONS, {"prompt": PROMPT})
        assert (reply.status, reply.error["code"], reply.headers["x-should-retry"]) == (504, "timeout", "false")


async def test_a_router_that_drains_ends_what_is_under_way_and_refuses_more() -> None:
    async with http_suite(halting_llm(1)) as suite:
        body = {"prompt": PROMPT, "seed": 0, "stream": True}
        first = asyncio.create_task(ask(suite, COMPLETIONS, body))
        await until(lambda: suite.llm.num_verified == 1)
        stopping = asyncio.create_task(suite.app.server.stop(LIMIT_S))
        await until(lambda: suite.app.server.is_draining)
        for path, asked in ((COMPLETIONS, body), ("/v1/models", None), ("/health", None)):
            reply = await ask(suite, path, asked)
            assert reply.status == 503
        suite.llm.gate.set()
        assert (await first).content.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await stopping


async def test_what_is_under_way_when_the_router_ends_at_once_is_told_so() -> None:
    async with http_suite(halting_llm(1)) as suite:
        body = {"prompt": PROMPT, "seed": 0}
        whole = asyncio.create_task(ask(suite, COMPLETIONS, body))
        stream = asyncio.create_task(ask(suite, COMPLETIONS, body | {"stream": True}))
        await until(lambda: suite.llm.num_verified == 2)
        assert suite.app.http is not None
        await suite.app.http.stop()
        assert ((await whole).status, (await whole).error["code"]) == (503, "unavailable")
        assert (await stream).status == 200
        assert b'"code":"unavailable"' in (await stream).content
        assert b"[DONE]" not in (await stream).content
        await until(lambda: not suite.llm.sessions)
        suite.llm.gate.set()


async def test_a_failure_amid_a_stream_is_an_event() -> None:
    class Failing(ToyLlm):
        async def _step(self, work: Any) -> Any:
            if self.num_verified == 3:
                raise InternalError("the card is on fire")
            return await super()._step(work)

    async with http_suite(Failing()) as suite, api_of(suite) as api:
        body: Any = {"model": "toy", "prompt": PROMPT, "max_tokens": 50, "seed": 0, "stream": True}
        chunks = aiter(await api.completions.create(**body))
        assert (await anext(chunks)).choices[0].text
        with pytest.raises(openai.APIError, match="the card is on fire"):
            assert [chunk async for chunk in chunks]
        reply = await ask(suite, COMPLETIONS, {"prompt": PROMPT, "max_tokens": 50})
        assert (reply.status, reply.error["code"]) == (500, "internal_error")


async def test_a_defect_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("router.servicer.checked_request", broken)
    async with http_suite(origins=("https://a.example",)) as suite:
        for is_stream in (False, True):
            body, origin = {"prompt": "x", "stream": is_stream}, {"origin": "https://a.example"}
            reply = await ask(suite, COMPLETIONS, body, headers=origin)
            assert reply.status == 500
            assert json.loads(reply.content)["error"]["message"] == "internal error; the router's log has the details"
            # Without it a browser shows its page no answer at all.
            assert reply.headers["access-control-allow-origin"] == origin["origin"]
        counted = (await ask(suite, "/metrics")).content.decode()
        assert 'http_responses_total{endpoint="/v1/completions",status="500"} 2' in counted
