"""A router that drains: what clients under way, new ones and those that don't end in time see; by gRPC and HTTP."""

from __future__ import annotations

import asyncio
import logging
import re

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.app import SERVICE_NAME, RouterApp
from router.config import RouterConfig
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.http.asking import ask, http_address, http_suite
from tests.router.toy_language import toy_output
from tests.router.toy_services import halting_llm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_clients_are_told_to_connect_elsewhere_and_their_streams_go_on() -> None:
    """The other router is at the same address, as another replica is behind a Service of Kubernetes."""
    async with toy_suite(halting_llm(1)) as suite:
        watch = health_pb2_grpc.HealthStub(suite.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        await watch.read()
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=20)))
        await until(lambda: suite.llm.num_verified == 1)
        stopping = asyncio.create_task(suite.app.server.stop(LIMIT_S))
        while (await watch.read()).status != NOT_SERVING:
            pass
        other = RouterApp(RouterConfig(llm_addresses=("127.0.0.1:1",), address=suite.app.server.address))
        await _listening(other)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest(), timeout=LIMIT_S, wait_for_ready=True)
        assert raised.value.details() == "the LLM service is not connected yet; try again later"
        assert not stopping.done()
        suite.llm.gate.set()
        assert token_ids_of(await generating) == toy_output(PROMPT, 20)
        await stopping
        await other.server.stop(0)
        await other.close()


async def _listening(app: RouterApp) -> None:
    """As soon as the one before has let go of the port."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await app.server.start(is_serving=False)
                return
            except OSError:
                await asyncio.sleep(0.005)


async def _under_way(suite: ToySuite) -> tuple[asyncio.Task[list[object]], asyncio.Task[list[object]]]:
    """A request that generates, and one that waits for its turn."""
    running = asyncio.create_task(_pieces(suite))
    await until(lambda: suite.llm.num_verified == 1)
    waiting = asyncio.create_task(_pieces(suite))
    await until(lambda: suite.app.admission.num_queued == 1)
    return running, waiting


async def _pieces(suite: ToySuite) -> list[object]:
    return [piece async for piece in suite.stub.Generate(request_of(max_tokens=20), timeout=LIMIT_S)]


@pytest.mark.parametrize("is_cut_short", [False, True], ids=["the time is over", "a second signal"])
async def test_what_does_not_end_in_time_is_told_why(is_cut_short: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router.request_log")
    async with toy_suite(halting_llm(1), max_num_requests=1, max_num_per_connection=1) as suite:
        running, waiting = await _under_way(suite)
        stopping = asyncio.create_task(suite.app.server.stop(LIMIT_S if is_cut_short else 0.05))
        if is_cut_short:
            await until(lambda: suite.app.server.is_draining)
            stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        ended = await asyncio.gather(running, waiting, return_exceptions=True)
        codes = [error.code() for error in ended if isinstance(error, grpc.aio.AioRpcError)]
        if is_cut_short:  # which leaves no time to say more than that it is over
            assert len(codes) == 2
        else:
            assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
            assert [error.details() for error in ended if isinstance(error, grpc.aio.AioRpcError)] == [
                "the router shut down before the output was complete; ask another router, or again later",
                "the router shut down while the request waited for its turn",
            ]
        await until(lambda: suite.app.admission.num_active == 0)
        (line,) = (record.message for record in caplog.records if record.name == "router.request_log")
        assert line.endswith(
            "failed: the router shut down before the output was complete; ask another router, or again later"
        )
        counts = suite.app._servicer.request_counts
        assert counts.num_failed[("UNAVAILABLE",)] == 2
        assert counts.num_finished[("abort",)] == 0
        suite.llm.gate.set()


async def test_what_does_not_end_in_time_is_told_over_http_too() -> None:
    async with http_suite(halting_llm(1)) as suite:
        body = {"prompt": PROMPT, "seed": 0}
        whole = asyncio.create_task(ask(suite, "/v1/completions", body))
        stream = asyncio.create_task(ask(suite, "/v1/completions", body | {"stream": True}))
        await until(lambda: suite.llm.num_verified == 2)
        await suite.app.server.stop(0.05)
        assert ((await whole).status, (await whole).error["code"]) == (503, "unavailable")
        for reply in (await whole, await stream):
            assert b"the router shut down before the output was complete" in reply.content
        assert b"[DONE]" not in (await stream).content
        suite.llm.gate.set()


async def test_http_connections_end_with_their_answers() -> None:
    async with http_suite(halting_llm(1)) as suite:
        host, port = http_address(suite).split(":")
        under_way, idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        body = b'{"prompt": "x", "max_tokens": 4, "stream": true}'
        under_way[1].write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        idle[1].write(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            head = await under_way[0].readuntil(b"\r\n\r\n")
            assert b"connection: close" not in head
            head = await idle[0].readuntil(b"\r\n\r\n")
            assert b"connection: close" not in head
            (length,) = re.findall(rb"content-length: (\d+)", head)
            await idle[0].readexactly(int(length))
            await until(lambda: suite.llm.num_verified >= 1)
            stopping = asyncio.create_task(suite.app.server.stop(LIMIT_S))
            await until(lambda: suite.app.server.is_draining)
            idle[1].write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            last = await idle[0].read()
            assert last.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" in last
            suite.llm.gate.set()
            assert (await under_way[0].read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            await stopping
        for _, writer in (under_way, idle):
            writer.close()
