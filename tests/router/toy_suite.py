"""The toy services over real sockets, and a router in front of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from router.app import RouterApp
from router.config import RouterConfig, TreeConfig
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.serving.tls import TlsFiles
from specgrove.v1 import llm_pb2_grpc, router_pb2_grpc, ssm_pb2_grpc
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.waiting import LIMIT_S, until


def llm_server(llm: ToyLlm, address: str = "127.0.0.1:0", tls: TlsFiles | None = None) -> Server:
    return Server(
        address,
        lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(llm, server),
        health=Health(["specgrove.v1.LlmService"]),
        drain=llm.streams.drain,
        tls=tls,
    )


def ssm_server(ssm: ToySsm, address: str = "127.0.0.1:0", tls: TlsFiles | None = None) -> Server:
    return Server(
        address,
        lambda server: ssm_pb2_grpc.add_SsmServiceServicer_to_server(ssm, server),
        health=Health(["specgrove.v1.SsmService"]),
        drain=ssm.streams.drain,
        tls=tls,
    )


class ToySuite:
    """The three services, and a stub of the router."""

    def __init__(self, llm: ToyLlm, ssm: ToySsm, tls: TlsFiles | None) -> None:
        self.llm, self.ssm, self._tls = llm, ssm, tls
        self.llm_server, self.ssm_server = llm_server(llm, tls=tls), ssm_server(ssm, tls=tls)
        self.app: RouterApp
        self.stub: Any
        self.channel: grpc.aio.Channel

    async def restart_llm(self, llm: ToyLlm) -> None:
        """As after kill -9: the sessions are gone."""
        await self.llm_server.stop(0)
        self.llm, self.llm_server = llm, llm_server(llm, self.llm_server.address, self._tls)
        await self.llm_server.start()

    async def drain_llm(self) -> None:
        """Stops the service once what is under way has been answered; a halting one goes on for that."""
        stopping = asyncio.create_task(self.llm_server.stop(LIMIT_S))
        await until(lambda: self.llm.streams._is_draining)
        self.llm.gate.set()
        await stopping

    async def restart_ssm(self, ssm: ToySsm) -> None:
        await self.ssm_server.stop(0)
        self.ssm, self.ssm_server = ssm, ssm_server(ssm, self.ssm_server.address, self._tls)
        await self.ssm_server.start()


@contextlib.asynccontextmanager
async def toy_suite(
    llm: ToyLlm | None = None, ssm: ToySsm | None = None, service_files: TlsFiles | None = None, **settings: Any
) -> AsyncIterator[ToySuite]:
    """The suite on free ports; ``service_files`` are for TLS of the LLM and SSM services, ``settings`` fields of ``RouterConfig``."""
    suite = ToySuite(llm or ToyLlm(), ssm or ToySsm(), service_files)
    config = RouterConfig(
        llm_addresses=(await suite.llm_server.start(),),
        ssm_addresses=(await suite.ssm_server.start(),),
        address="127.0.0.1:0",
        # Whether trees pay is a question of times, which toys don't have.
        trees=TreeConfig(is_adaptive=False),
        # The process takes a second to start, in each of hundreds of suites.
        renders_apart=False,
    )
    suite.app = RouterApp(replace(config, **settings))
    address = await suite.app.server.start(is_serving=False)
    await suite.app.start_http()
    running = asyncio.create_task(suite.app.run())
    suite.channel = grpc.aio.insecure_channel(address)
    suite.stub = router_pb2_grpc.RouterServiceStub(suite.channel)
    try:
        async with asyncio.timeout(LIMIT_S):
            await suite.app.llms.wait_usable(LIMIT_S)
            for replica in suite.app.ssms.replicas:
                await replica.client.connected.wait()
        yield suite
    finally:
        await suite.channel.close()
        await suite.app.server.stop(0)
        running.cancel()
        await suite.app.close()
        await suite.ssm_server.stop(0)
        await suite.llm_server.stop(0)
