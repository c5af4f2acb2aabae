"""One line of the router's log for each request, however it ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from router.request_log import RequestLog
from specgrove.errors import UnavailableError
from specgrove.v1 import router_pb2
from tests.router.toy_suite import toy_suite

ID = "0123456789abcdef"


def logged(caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, object]]:
    (record,) = [record for record in caplog.records if record.name == "router.request_log"]
    return record.getMessage(), vars(record)["request"]


def answer(num_tokens: int, **fields: object) -> router_pb2.GenerateResponse:
    tokens = [router_pb2.GeneratedToken(token_id=i) for i in range(num_tokens)]
    return router_pb2.GenerateResponse(tokens=tokens, **fields)  # type: ignore[arg-type]


def test_a_complete_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with RequestLog(ID, 5, arrived_s=0) as log:
        log.add(router_pb2.GenerateResponse(num_prompt_tokens_read=3))
        log.add(answer(1))
        usage = router_pb2.Usage(num_output_tokens=4, num_verify_steps=2, num_replays=1)
        log.add(answer(3, finish_reason=router_pb2.FINISH_REASON_STOP, usage=usage))
    message, fields = logged(caplog)
    assert message.startswith("request 01234567: 5 + 4 tokens in ")
    assert message.endswith("2.00 tokens per step, stop")
    assert (fields["request_id"], fields["tokens_per_step"], fields["num_replays"]) == (ID, 2.0, 1)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UnavailableError("no LLM\nservice"), "failed: no LLM service"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
)
def test_a_request_that_ends_early(caplog: pytest.LogCaptureFixture, error: BaseException, outcome: str) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog(ID, 5, arrived_s=0)
    log.add(answer(2))
    log.__exit__(type(error), error, None)
    message, fields = logged(caplog)
    assert message.endswith(outcome)
    assert (fields["outcome"], fields["num_output_tokens"]) == (outcome, 2)


async def test_the_router_logs_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with toy_suite() as suite:
        request = router_pb2.GenerateRequest(max_tokens=4)
        request.token_ids.token_ids.extend([1, 2, 3])
        async for _ in suite.stub.Generate(request):
            pass
    _, fields = logged(caplog)
    assert (fields["num_prompt_tokens"], fields["num_output_tokens"], fields["outcome"]) == (3, 4, "length")
