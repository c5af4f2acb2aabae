"""One request, one trace over the three real services, received by a real OTLP receiver."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import router_pb2, router_pb2_grpc
from tests.addresses import free_address
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.otlp_receiver import Receiver, otlp_receiver
from tests.waiting import LIMIT_S

GRPC_TRACE, HTTP_TRACE, PARENT = (
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "5bf92f3577b34da6a3ce929d0e0e4736",
    "00f067aa0ba902b7",
)


@pytest.fixture(scope="module")
def usage_and_spans(tiny_model: Path) -> Iterator[tuple[router_pb2.Usage, Receiver]]:
    """A request by gRPC and one by HTTP; services send what is left when they end."""
    http_address = free_address()
    with otlp_receiver() as receiver:
        to_it = ("--otlp-endpoint", receiver.address)
        config = SuiteConfig(
            llm_folder=tiny_model,
            ssms=("lookup",),
            dtype="float32",
            num_threads=1,
            router_arguments=(*ALWAYS_DRAFT, *to_it, "--http-address", http_address),
            llm_arguments=to_it,
            ssm_arguments=to_it,
        )
        with Suite(config) as suite:
            yield _usage_by_grpc(suite), _after(suite, http_address, receiver)


def _usage_by_grpc(suite: Suite) -> router_pb2.Usage:
    request = router_pb2.GenerateRequest(text="abcabcabcabc", max_tokens=12, ignore_eos=True)
    with grpc.insecure_channel(suite.address) as channel:
        metadata = (("traceparent", f"00-{GRPC_TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))
        return list(router_pb2_grpc.RouterServiceStub(channel).Generate(request, metadata=metadata))[-1].usage


def _after(suite: Suite, http_address: str, receiver: Receiver) -> Receiver:
    body = {"prompt": "abcabcabcabc", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    headers = {"content-type": "application/json", "traceparent": f"00-{HTTP_TRACE}-{PARENT}-01"}
    url = f"http://{http_address}/v1/completions"
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
        assert answer.status == 200
    suite.stop()
    return receiver


def test_all_services_record_below_the_clients_span(usage_and_spans: tuple[router_pb2.Usage, Receiver]) -> None:
    _, receiver = usage_and_spans
    for trace_id in (GRPC_TRACE, HTTP_TRACE):
        spans = {span.service: span for span in receiver.spans if span.trace_id == trace_id}
        assert spans.keys() == {"router", "llm_service", "ssm_service"}
        router = spans["router"]
        assert router.parent_id == PARENT
        for service, name in (("llm_service", "verify"), ("ssm_service", "draft")):
            assert (spans[service].name, spans[service].parent_id) == (name, router.span_id)
    assert len(receiver.spans) == 6


def test_each_step_is_an_event(usage_and_spans: tuple[router_pb2.Usage, Receiver]) -> None:
    usage, receiver = usage_and_spans
    router, verifier, drafter = (
        next(span for span in receiver.of(service) if span.trace_id == GRPC_TRACE)
        for service in ("router", "llm_service", "ssm_service")
    )
    assert router.attributes["gen_ai.usage.output_tokens"] == 12
    for span, event, steps in (
        (router, "specgrove.step", "specgrove.step.num_steps"),
        (verifier, "specgrove.verify", "specgrove.verify.steps"),
    ):
        assert {name for name, _ in span.events} == {event}
        assert sum(attributes[steps] for _, attributes in span.events) == usage.num_verify_steps
    assert {name for name, _ in drafter.events} == {"specgrove.draft"}
    assert router.attributes["gen_ai.response.id"] == verifier.attributes["specgrove.session.id"]
