"""Sessions of requests that have ended are closed in the background; a service may be long in it, and a router that stops doesn't wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router import session_closes
from specgrove.v1 import llm_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import toy_suite
from tests.waiting import LIMIT_S, until


class _SlowToClose(ToyLlm):
    """Closes nothing till it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()
        self.seconds_left: list[float] = []

    async def CloseSession(self, request: Any, context: Any) -> llm_pb2.LlmServiceCloseSessionResponse:  # noqa: N802
        self.seconds_left.append(context.time_remaining())
        await self.may_close.wait()
        return await super().CloseSession(request, context)


async def test_a_service_that_computes_has_time_to_close_sessions() -> None:
    """It had two seconds; on a machine with much to do the sessions then kept their slots for minutes."""
    llm = _SlowToClose()
    async with toy_suite(llm) as suite:
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)
        await until(lambda: len(llm.seconds_left) == 1)
        assert llm.seconds_left[0] > 30
        llm.may_close.set()
        await until(lambda: not llm.sessions)


async def test_a_router_that_stops_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_closes, "_LAST_CLOSES_S", 0.01)
    monkeypatch.setattr(session_closes, "_CLOSE_TIMEOUT_S", 10 * LIMIT_S)
    llm = _SlowToClose()
    async with asyncio.timeout(LIMIT_S), toy_suite(llm) as suite:
        await responses_to(suite, request_of())
        await until(lambda: len(llm.seconds_left) == 1)
