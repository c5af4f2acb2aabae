"""``/metrics`` and ``GetStats``: one router's numbers both ways, and who may read them."""

from __future__ import annotations

import grpc
import pytest

from router.config import MetricsConfig
from specgrove.serving.api_keys import ApiKeys
from specgrove.v1 import router_pb2
from tests.router.http.asking import ask, http_suite
from tests.router.toy_suite import ToySuite, toy_suite
from tests.telemetry.scraping import Samples, samples_of, value
from tests.waiting import until

# What Prometheus accepts first.
OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def scrape(suite: ToySuite, **headers: str) -> Samples:
    reply = await ask(suite, "/metrics", headers=headers)
    assert reply.status == 200
    # Without chunks' sizes between its lines.
    return samples_of("\n".join(line for line in reply.content.decode().split("\r\n")[1::2]))


async def generate(suite: ToySuite, max_tokens: int, prompt_len: int = 3) -> None:
    request = router_pb2.GenerateRequest(max_tokens=max_tokens)
    request.token_ids.token_ids.extend(range(1, prompt_len + 1))
    async for _ in suite.stub.Generate(request):
        pass


async def stats_of(suite: ToySuite) -> router_pb2.GetStatsResponse:
    found: router_pb2.GetStatsResponse = await suite.stub.GetStats(router_pb2.GetStatsRequest())
    return found


async def test_requests_of_both_protocols_count_alike() -> None:
    async with http_suite() as suite:
        await generate(suite, max_tokens=4)
        body = {"prompt": [1, 2, 3, 4, 5], "max_tokens": 6, "temperature": 0}
        assert (await ask(suite, "/v1/completions", body)).status == 200
        assert (await ask(suite, "/v1/completions", body | {"temperature": -1})).status == 400
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(suite, max_tokens=4, prompt_len=100_000)
        samples, stats = await scrape(suite), await stats_of(suite)
    name = "specgrove_router_requests_finished_total"
    assert value(samples, name, finished_reason="length") == stats.num_finished_by_reason["length"] == 2
    assert value(samples, "specgrove_router_prompt_tokens_total") == stats.num_prompt_tokens == 8
    assert value(samples, "specgrove_router_generation_tokens_total") == stats.num_output_tokens == 10
    assert stats.num_failed_by_code == {"INVALID_ARGUMENT": 2}
    assert value(samples, "specgrove_router_requests_failed_total", code="INVALID_ARGUMENT") == 2
    method = "/specgrove.v1.RouterService/Generate"
    assert value(samples, "specgrove_grpc_errors_total", method=method, code="INVALID_ARGUMENT") == 1
    responses = "specgrove_router_http_responses_total"
    assert value(samples, responses, endpoint="/v1/completions", status="200") == 1
    assert value(samples, responses, endpoint="/v1/completions", status="400") == 1
    for timing in (stats.queue, stats.first_token, stats.duration):
        assert timing.num == 2
    assert stats.between_tokens.num == 8


async def test_trees_count_as_usage_tells_them() -> None:
    async with http_suite() as suite:
        request = router_pb2.GenerateRequest(text="Hello, tree", max_tokens=40)
        last = [response async for response in suite.stub.Generate(request)][-1]
        samples, stats = await scrape(suite), await stats_of(suite)
    usage, found = last.usage, stats.speculation
    assert (found.num_verify_steps, found.num_draft_tokens) == (usage.num_verify_steps, usage.num_drafted_nodes)
    assert found.num_drafts == usage.drafted_by_depth[0] > 0
    assert list(found.num_accepted_by_position) == list(usage.accepted_by_depth)
    assert found.num_accepted_tokens == sum(usage.accepted_by_depth)
    assert value(samples, "specgrove_router_spec_decode_drafts_total") == found.num_drafts
    assert {ssm.name for ssm in found.ssms} == {"toy-a", "toy-b"}
    for ssm in found.ssms:
        assert 0 < ssm.num_drafts <= found.num_drafts
        assert 0 < ssm.num_draft_tokens <= found.num_draft_tokens
        assert value(samples, "specgrove_router_ssm_draft_tokens_total", ssm=ssm.name) == ssm.num_draft_tokens
    assert found.incremental_equivalent_s > 0
    assert found.speculative_s > 0


async def test_what_runs_and_what_waits_is_told_while_it_does() -> None:
    async with http_suite(max_num_requests=1, metrics=MetricsConfig(has_vllm_names=True)) as suite:
        suite.llm.gate.clear()
        calls = [suite.stub.Generate(router_pb2.GenerateRequest(text="x", max_tokens=2)) for _ in range(3)]
        await until(lambda: suite.app.admission.num_queued == 2)
        samples, stats = await scrape(suite, accept=OPEN_METRICS), await stats_of(suite)
        for call in calls:
            call.cancel()
        await until(lambda: suite.app.admission.num_active == 0)
        ended = await stats_of(suite)
    assert (stats.num_running_requests, stats.num_waiting_requests) == (1, 2)
    labels = {"model_name": "toy", "engine": "0"}
    assert value(samples, "vllm:num_requests_running", **labels) == 1
    assert (
        value(samples, "vllm:num_requests_waiting", **labels)
        == value(samples, "specgrove_router_requests_waiting")
        == 2
    )
    assert ended.num_finished_by_reason["abort"] == 3


async def test_a_lost_service_is_told() -> None:
    async with http_suite() as suite:
        await suite.ssm_server.stop(0)
        (replica,) = suite.app.ssms.replicas
        await until(lambda: not replica.client.connected.is_set())
        await until(lambda: replica.client.num_losses == 1)
        samples, stats = await scrape(suite), await stats_of(suite)
    labels = {"service": "ssm_service", "address": suite.ssm_server.address}
    assert value(samples, "specgrove_router_replica_up", **labels) == 0
    assert value(samples, "specgrove_router_replica_losses_total", **labels) == 1
    llm, ssm = stats.services
    assert (llm.service, llm.is_connected, llm.HasField("load")) == ("llm_service", True, True)
    assert (ssm.service, ssm.is_connected, ssm.HasField("load"), ssm.num_losses) == ("ssm_service", False, False, 1)


async def test_keys_guard_metrics_of_the_api_and_not_those_of_an_address_of_their_own() -> None:
    async with http_suite(keys=("secret",), metrics=MetricsConfig("127.0.0.1:0")) as suite:
        assert (await ask(suite, "/metrics")).status == 401
        samples = await scrape(suite, authorization="Bearer secret")
        assert value(samples, "specgrove_router_http_responses_total", endpoint="", status="401") == 1
        assert suite.app.metrics_http is not None
        reply = await ask(suite, "/metrics", address=suite.app.metrics_http.address)
        assert b"specgrove_router_requests_running 0.0" in reply.content


async def test_metrics_need_no_http_api() -> None:
    async with toy_suite(metrics=MetricsConfig("127.0.0.1:0")) as suite:
        assert suite.app.http is None
        assert suite.app.metrics_http is not None
        reply = await ask(suite, "/metrics", address=suite.app.metrics_http.address)
        assert b"specgrove_build_info{" in reply.content


async def test_stats_need_a_key_where_all_else_does() -> None:
    async with toy_suite(api_keys=ApiKeys.of_texts(("secret",))) as suite:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stats_of(suite)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer secret"),)
        assert (await suite.stub.GetStats(router_pb2.GetStatsRequest(), metadata=metadata)).model == "toy"
