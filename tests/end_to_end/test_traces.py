"""One request, one trace over the three real services, received by a real OTLP receiver."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import router_pb2, router_pb2_grpc
from tests.addresses import free_address
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.otlp_receiver import Receiver, otlp_receiver
from tests.waiting import LIMIT_S, wait_until

HTTP_TRACE, PARENT = "5bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass(frozen=True)
class Traced:
    """What a request by gRPC was told, and all that came from the services of it and of one by HTTP."""

    usage: router_pb2.Usage
    grpc_trace: str
    receiver: Receiver


@pytest.fixture(scope="module")
def traced(tiny_model: Path) -> Traced:
    """Services send what is left when they end."""
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
            usage, grpc_trace = _drafted_by_grpc(suite)
            _ask_by_http(http_address)
        return Traced(usage, grpc_trace, receiver)


def _drafted_by_grpc(suite: Suite) -> tuple[router_pb2.Usage, str]:
    """Of the first request that was drafted for, and its trace's id: on a busy machine drafts may come late."""
    request = router_pb2.GenerateRequest(text="abcabcabcabc", max_tokens=12, ignore_eos=True)
    found: list[tuple[router_pb2.Usage, str]] = []

    def is_drafted() -> bool:
        trace = f"4bf92f3577b34da6a3ce929d{len(found):08x}"
        metadata = (("traceparent", f"00-{trace}-{PARENT}-01"), ("tracestate", "vendor=1"))
        *_, last = router_pb2_grpc.RouterServiceStub(channel).Generate(request, metadata=metadata)
        found.append((last.usage, trace))
        return last.usage.num_drafted_nodes > 0

    with grpc.insecure_channel(suite.address) as channel:
        wait_until(is_drafted)
    return found[-1]


def _ask_by_http(http_address: str) -> None:
    body = {"prompt": "abcabcabcabc", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    headers = {"content-type": "application/json", "traceparent": f"00-{HTTP_TRACE}-{PARENT}-01"}
    url = f"http://{http_address}/v1/completions"
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
        assert answer.status == 200


def test_all_services_record_below_the_clients_span(traced: Traced) -> None:
    for trace_id in (traced.grpc_trace, HTTP_TRACE):
        found = [span for span in traced.receiver.spans if span.trace_id == trace_id]
        assert len(found) == 3
        spans = {span.service: span for span in found}
        assert spans.keys() == {"router", "llm_service", "ssm_service"}
        router = spans["router"]
        assert router.parent_id == PARENT
        for service, name in (("llm_service", "verify"), ("ssm_service", "draft")):
            assert (spans[service].name, spans[service].parent_id) == (name, router.span_id)


def test_each_step_is_an_event(traced: Traced) -> None:
    router, verifier, drafter = (
        next(span for span in traced.receiver.of(service) if span.trace_id == traced.grpc_trace)
        for service in ("router", "llm_service", "ssm_service")
    )
    assert router.attributes["gen_ai.usage.output_tokens"] == 12
    for span, event, steps in (
        (router, "specgrove.step", "specgrove.step.num_steps"),
        (verifier, "specgrove.verify", "specgrove.verify.steps"),
    ):
        assert {name for name, _ in span.events} == {event}
        assert sum(attributes[steps] for _, attributes in span.events) == traced.usage.num_verify_steps
    assert {name for name, _ in drafter.events} == {"specgrove.draft"}
    assert router.attributes["gen_ai.response.id"] == verifier.attributes["specgrove.session.id"]
