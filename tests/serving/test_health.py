"""What a service says of its health, at its own address and at one for health checks alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.serving import health_server as health_server_module
from specgrove.serving.health import LIVENESS, Health
from specgrove.serving.health_server import health_server
from specgrove.v1 import ssm_pb2
from tests.addresses import taken_address
from tests.certificates import make_certificates
from tests.serving.toy_service import SERVICE_NAME, EchoServicer, client_of, result_of, server_of
from tests.waiting import LIMIT_S, until

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    health_pb2.HealthCheckResponse.ServingStatus.Value(name)
    for name in ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
)


@pytest.fixture
def health() -> Health:
    return Health([SERVICE_NAME])


@pytest.fixture
def address(tmp_path: Path, health: Health) -> Iterator[str]:
    """Of a server for health checks alone."""
    address = f"unix:{tmp_path}/health.sock"
    with health_server(address, health):
        yield address


@contextlib.asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def statuses_at(address: str, *names: str) -> list[int]:
    async with stub_of(address) as stub:
        asked = [
            stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S, wait_for_ready=True)
            for name in names
        ]
        return [(await call).status for call in asked]


async def code_at(address: str, method: str, name: str) -> grpc.StatusCode:
    async with stub_of(address) as stub:
        call = getattr(stub, method)(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (call if method == "Check" else call.read())
        return raised.value.code()


async def test_an_address_for_health_alone_says_what_the_service_says(health: Health, address: str) -> None:
    names = (SERVICE_NAME, "", LIVENESS)
    assert await statuses_at(address, *names) == [NOT_SERVING, NOT_SERVING, SERVING]
    health.set_serving(True)
    assert await statuses_at(address, *names) == [SERVING, SERVING, SERVING]
    health.drain()
    assert await statuses_at(address, *names) == [NOT_SERVING, NOT_SERVING, SERVING]
    health.set_serving(True)
    assert await statuses_at(address, SERVICE_NAME) == [NOT_SERVING]
    assert await code_at(address, "Check", "nobody") is grpc.StatusCode.NOT_FOUND


async def test_a_service_says_so_at_its_own_address_too() -> None:
    server = server_of(EchoServicer())
    address = await server.start(is_serving=False)
    assert await statuses_at(address, SERVICE_NAME, "", LIVENESS) == [NOT_SERVING, NOT_SERVING, SERVING]
    server.health.set_serving(True)
    assert await statuses_at(address, SERVICE_NAME, "", LIVENESS) == [SERVING, SERVING, SERVING]
    assert await code_at(address, "Check", "nobody") is grpc.StatusCode.NOT_FOUND
    await server.stop(0)


async def test_watchers_are_told_of_changes_at_both_addresses(health: Health, address: str) -> None:
    """Each of several, also when one of them has gone."""
    server = server_of(EchoServicer(), health=health)
    for place in (await server.start(is_serving=False), address):
        health.set_serving(False)
        async with stub_of(place) as stub:
            request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
            first, second = stub.Watch(request, timeout=LIMIT_S), stub.Watch(request, timeout=LIMIT_S)
            assert [(await watch.read()).status for watch in (first, second)] == [NOT_SERVING, NOT_SERVING]
            health.set_serving(True)
            assert [(await watch.read()).status for watch in (first, second)] == [SERVING, SERVING]
            first.cancel()
            await until(lambda: len(health._observers) == 1)
            health.set_serving(False)
            assert (await second.read()).status == NOT_SERVING
            unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=LIMIT_S)
            assert (await unknown.read()).status == SERVICE_UNKNOWN
        await until(lambda: not health._observers)
    await server.stop(0)


async def test_watchers_never_take_the_threads_of_checks(
    health: Health, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_server_module, "_MAX_NUM_WATCHES", 2)
    monkeypatch.setattr(health_server_module, "_MAX_NUM_CHECKS", 1)
    address = f"unix:{tmp_path}/watched.sock"
    with health_server(address, health):
        async with stub_of(address) as stub:
            watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT_S) for _ in range(2)]
            for watch in watches:
                await watch.read()
            assert await code_at(address, "Watch", "") is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await statuses_at(address, LIVENESS) == [SERVING]


async def test_a_drain_is_told_first_and_the_process_stays_alive(health: Health, address: str, tmp_path: Path) -> None:
    """Beside a main address by mTLS, which probes can't reach."""
    certificates = make_certificates(tmp_path)
    servicer = EchoServicer()
    server = server_of(servicer, f"unix:{tmp_path}/main.sock", health=health, tls=certificates.server)
    local = server_of(servicer, f"unix:{tmp_path}/local.sock", health=health)
    await server.start()
    client = client_of(await local.start())
    await client.connected.wait()
    assert await statuses_at(address, SERVICE_NAME, LIVENESS) == [SERVING, SERVING]
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow", base=3)))
    await until(lambda: servicer.streams.num_pending_items == 1)
    stopping = asyncio.create_task(server.stop(LIMIT_S))
    async with stub_of(address) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=LIMIT_S)
        while (await watch.read()).status != NOT_SERVING:
            pass
    assert not slow.done()
    assert await statuses_at(address, SERVICE_NAME, LIVENESS) == [NOT_SERVING, SERVING]
    servicer.gate.set()
    await stopping
    assert await statuses_at(address, SERVICE_NAME, LIVENESS) == [NOT_SERVING, SERVING]
    await slow
    await client.close()
    await local.stop(0)


def test_an_address_that_is_taken_is_told(health: Health) -> None:
    with (
        taken_address() as address,
        pytest.raises(OSError, match=f"can't listen on {address}: another server does"),
        health_server(address, health),
    ):
        pass


def test_no_address_is_no_server(health: Health) -> None:
    with health_server(None, health):
        pass
