"""What a service says of itself is followed; one that says nothing is taken to be serving."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest_asyncio

from specgrove.serving.health_watch import HealthWatch
from specgrove.serving.server import Server
from tests.serving.toy_service import SERVICE_NAME, EchoServicer, server_of
from tests.waiting import until


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    server = server_of(EchoServicer())
    await server.start()
    yield server
    await server.stop(0)


async def test_a_service_is_followed(server: Server) -> None:
    seen: list[bool] = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = HealthWatch(SERVICE_NAME, "peer", lambda: seen.append(watch.is_serving))
        await watch.start(channel)
        assert (watch.is_serving, seen) == (True, [])
        server.health.set_serving(False)
        await until(lambda: not watch.is_serving)
        server.health.set_serving(True)
        await until(lambda: watch.is_serving)
        assert seen == [False, True]
        watch.stop()


async def test_what_it_says_is_known_when_the_watch_has_started(server: Server) -> None:
    server.health.set_serving(False)
    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = HealthWatch(SERVICE_NAME, "peer")
        await watch.start(channel)
        assert not watch.is_serving
        server.health.set_serving(True)
        await watch.start(channel)  # as on another connection
        assert watch.is_serving
        watch.stop()


async def test_a_service_that_does_not_say_is_serving(server: Server) -> None:
    older = grpc.aio.server()
    port = older.add_insecure_port("127.0.0.1:0")
    await older.start()
    for address, name in ((server.address, "specgrove.v1.Unheard"), (f"127.0.0.1:{port}", SERVICE_NAME)):
        async with grpc.aio.insecure_channel(address) as channel:
            watch = HealthWatch(name, "peer")
            watch.is_serving = False
            await watch.start(channel)
            assert watch.is_serving
            watch.stop()
    await older.stop(0)
