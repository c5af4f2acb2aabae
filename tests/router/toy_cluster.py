"""Toy services at addresses of their own (127.0.0.2, 127.0.0.3, ...), a DNS that a test writes, and a router that finds them by it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc

from router.app import RouterApp
from router.config import RouterConfig, TreeConfig
from router.llm_replica import LlmReplica
from router.ssm_replica import SsmReplica
from specgrove.serving.server import Server
from specgrove.serving.tls import TlsFiles
from specgrove.v1 import router_pb2_grpc
from tests.addresses import free_port
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import llm_server, ssm_server

HOSTS = tuple(f"127.0.0.{number}" for number in range(2, 8))


class ToyDns:
    """Addresses by name. A name that is not there, or has ``None``, does not resolve."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...] | None] = {}
        self.num_asked: Counter[str] = Counter()

    async def look_up(self, name: str, port: int) -> tuple[str, ...]:
        """See ``router.discovery.LookUp``."""
        self.num_asked[name] += 1
        await asyncio.sleep(0)
        if (found := self.answers.get(name)) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def add(self, name: str, host: str) -> None:
        """One more address of a name."""
        self.answers[name] = (*(self.answers.get(name) or ()), host)

    def remove(self, name: str, host: str) -> None:
        """One less."""
        self.answers[name] = tuple(other for other in self.answers.get(name) or () if other != host)


class ToyCluster:
    """``servers`` by address, ``address`` is the router's. The names ``llm`` and ``ssm`` are those of the router's services."""

    def __init__(self) -> None:
        self.dns = ToyDns()
        self.servers: dict[str, Server] = {}
        self.llm_port, self.ssm_port = free_port(HOSTS), free_port(HOSTS)
        self.address: str
        self.app: RouterApp
        self.running: asyncio.Task[None]
        self.stub: Any
        self.channel: grpc.aio.Channel

    async def add_llm(self, host: str, llm: ToyLlm, tls: TlsFiles | None = None) -> ToyLlm:
        """Starts it, and tells DNS."""
        await self._start(llm_server(llm, f"{host}:{self.llm_port}", tls))
        self.dns.add("llm", host)
        return llm

    async def add_ssm(self, host: str, ssm: ToySsm) -> ToySsm:
        """The same of an SSM service."""
        await self._start(ssm_server(ssm, f"{host}:{self.ssm_port}"))
        self.dns.add("ssm", host)
        return ssm

    async def _start(self, server: Server) -> None:
        address = await server.start()
        self.servers[address] = server

    def llm_server(self, host: str) -> Server:
        return self.servers[f"{host}:{self.llm_port}"]

    def ssm_server(self, host: str) -> Server:
        return self.servers[f"{host}:{self.ssm_port}"]

    def llm_replica(self, host: str) -> LlmReplica | None:
        """As the router knows it."""
        address = f"{host}:{self.llm_port}"
        return next((replica for replica in self.app.llms.replicas if replica.client.address == address), None)

    def ssm_replica(self, host: str) -> SsmReplica | None:
        address = f"{host}:{self.ssm_port}"
        return next((replica for replica in self.app.ssms.replicas if replica.client.address == address), None)

    def takes_sessions(self, host: str) -> bool:
        """Whether new requests may go to the LLM and SSM services there; to one of them where there is only one."""
        replicas = [replica for replica in (self.llm_replica(host), self.ssm_replica(host)) if replica is not None]
        return bool(replicas) and all(replica.takes_sessions for replica in replicas)


@contextlib.asynccontextmanager
async def toy_cluster(**settings: Any) -> AsyncIterator[ToyCluster]:
    """A router without any service yet. ``settings`` are fields of ``RouterConfig``."""
    cluster = ToyCluster()
    config = RouterConfig(
        **{
            "llm_addresses": (f"dns:llm:{cluster.llm_port}",),
            "ssm_addresses": (f"dns:ssm:{cluster.ssm_port}",),
            "resolve_interval_s": 0.01,
            "address": "127.0.0.1:0",
            "trees": TreeConfig(is_adaptive=False),
            "renders_apart": False,  # as in ``toy_suite``
            **settings,
        }
    )
    cluster.app = RouterApp(config, cluster.dns.look_up)
    cluster.address = await cluster.app.server.start(is_serving=False)
    cluster.running = asyncio.create_task(cluster.app.run())
    cluster.channel = grpc.aio.insecure_channel(cluster.address)
    cluster.stub = router_pb2_grpc.RouterServiceStub(cluster.channel)
    try:
        yield cluster
    finally:
        await cluster.channel.close()
        await cluster.app.server.stop(0)
        cluster.running.cancel()
        await cluster.app.close()
        await asyncio.gather(*(server.stop(0) for server in cluster.servers.values()))
