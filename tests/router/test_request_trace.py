"""A request's span: below the client's, with an event for each step, by the names of OpenTelemetry's conventions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from specgrove.telemetry.tracing import TracingConfig
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.otlp_receiver import ReceivedSpan, Receiver, otlp_receiver
from tests.router.generating import PROMPT, request_of, responses_to
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RECORDED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
NOT_RECORDED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as running:
        yield running


def traced(receiver: Receiver, sample_ratio: float = 1.0) -> Any:
    return toy_suite(tracing=TracingConfig(receiver.address, sample_ratio))


async def usage_of(suite: ToySuite, request: router_pb2.GenerateRequest, metadata: Any = RECORDED) -> router_pb2.Usage:
    async with asyncio.timeout(LIMIT_S):
        return [response async for response in suite.stub.Generate(request, metadata=metadata)][-1].usage


def only(spans: list[ReceivedSpan]) -> ReceivedSpan:
    (span,) = spans
    return span


async def test_a_span_says_what_was_asked_and_what_came(receiver: Receiver) -> None:
    sampling = token_tree_pb2.SamplingParams(seed=0, temperature=0.5, top_k=3)
    async with traced(receiver) as suite:
        usage = await usage_of(suite, request_of(sampling=sampling, stop=["never there"]))
        assert not receiver.spans, "they are sent later, and at the latest at the end"
    span = only(receiver.of("router"))
    assert (span.name, span.trace_id, span.parent_id, span.is_error) == ("text_completion toy", TRACE, PARENT, False)
    assert (
        span.attributes.items()
        >= {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "toy",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.top_k": 3,
            "gen_ai.request.seed": 0,
            "gen_ai.request.max_tokens": 60,
            "gen_ai.request.stop_sequences": ["never there"],
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": len(PROMPT),
            "gen_ai.usage.output_tokens": 60,
            "specgrove.request.drafted_nodes": usage.num_drafted_nodes,
        }.items()
    )
    assert "gen_ai.request.top_p" not in span.attributes
    assert {name for name, _ in span.events} == {"specgrove.step"}
    steps = [attributes for _, attributes in span.events]
    assert sum(step["specgrove.step.num_steps"] for step in steps) == usage.num_verify_steps
    assert sum(step["specgrove.step.output_tokens"] for step in steps) == 60
    assert sum(step["specgrove.step.drafted_nodes"] for step in steps) == usage.num_drafted_nodes


async def test_services_are_told_the_span(receiver: Receiver) -> None:
    async with traced(receiver) as suite:
        await usage_of(suite, request_of())
        told = [*suite.llm.trace_contexts, *(work.trace_context for work in suite.ssm.asked if work.base == 0)]
    span = only(receiver.of("router"))
    assert len(told) == 2
    assert all(context["traceparent"] == f"00-{TRACE}-{span.span_id}-01" for context in told)


async def test_what_the_client_or_the_setting_leaves_out_is_not_recorded(receiver: Receiver) -> None:
    async with traced(receiver, sample_ratio=0.0) as suite:
        await usage_of(suite, request_of(), NOT_RECORDED)
        await usage_of(suite, request_of(), ())
        await usage_of(suite, request_of(), RECORDED)
    assert only(receiver.spans).parent_id == PARENT


async def test_errors_and_cancelled_calls_are_told_apart(receiver: Receiver) -> None:
    async with traced(receiver) as suite:
        with pytest.raises(grpc.aio.AioRpcError):
            await usage_of(suite, request_of(sampling=token_tree_pb2.SamplingParams(top_p=7)))
        suite.llm.gate.clear()
        call = suite.stub.Generate(request_of(), metadata=RECORDED)
        await until(lambda: bool(suite.llm.sessions))
        call.cancel()
        suite.llm.gate.set()
        await until(lambda: not suite.app.admission.num_active)
        await asyncio.sleep(0)
    wrong, cancelled = receiver.of("router")
    assert (wrong.is_error, wrong.attributes["error.type"]) == (True, "InvalidRequestError")
    assert (cancelled.is_error, cancelled.attributes["specgrove.cancelled"]) == (False, True)


async def test_a_receiver_that_is_away_costs_no_request() -> None:
    async with toy_suite(tracing=TracingConfig("http://127.0.0.1:1")) as suite:
        assert len(await responses_to(suite, request_of())) > 1


async def test_nothing_is_told_where_nothing_is_traced(suite: ToySuite) -> None:
    await usage_of(suite, request_of())
    assert suite.llm.trace_contexts == [{}]
    assert not any(work.trace_context for work in suite.ssm.asked)
