"""One line of the router's log for each request, however it ends."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from router.request_log import RequestLog
from specgrove.errors import UnavailableError
from specgrove.telemetry.logs import JsonFormatter
from specgrove.v1 import router_pb2
from tests.router.generating import request_of, responses_to
from tests.router.toy_services import ToyLlm, halting_llm
from tests.router.toy_suite import toy_suite
from tests.waiting import until

ID = "0123456789abcdef"


def logged(caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, object]]:
    (record,) = [record for record in caplog.records if record.name == "router.request_log"]
    return record.getMessage(), vars(record)["request"]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """All that was logged as JSON, where ``caplog``'s handler writes that."""
    return [json.loads(line) for line in caplog.text.splitlines()]


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
    assert message.startswith("5 + 4 tokens in ")
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


async def test_lines_of_a_request_have_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """Two are replayed when the LLM service is restarted; what the router says of either names it, and nothing else names any."""
    caplog.handler.setFormatter(JsonFormatter("router"))
    caplog.set_level(logging.INFO)
    async with toy_suite(halting_llm(3)) as suite:
        generating = [asyncio.create_task(responses_to(suite, request_of(max_tokens=20))) for _ in range(2)]
        await until(lambda: suite.llm.num_verified >= 6)
        await suite.restart_llm(ToyLlm())
        await asyncio.gather(*generating)
    ids = {str(line["request_id"]) for line in lines(caplog) if line["logger"] == "router.request_log"}
    assert len(ids) == 2
    replayed = [line for line in lines(caplog) if "; replaying " in str(line["message"])]
    assert {line["request_id"] for line in replayed} == ids
    lost = [line for line in lines(caplog) if ": lost: " in str(line["message"])]
    assert lost
    assert not any("request_id" in line for line in lost)
