"""An SSM service whose drafts echo what was asked, for tests of the plumbing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.addresses import ReplicaAddress
from specgrove.errors import InvalidRequestError, ResourceExhaustedError, StaleBaseError
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from tests.serving.task_streams import TaskStreams
from tests.waiting import LIMIT_S

SERVICE_NAME = "specgrove.v1.SsmService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class EchoServicer(ssm_pb2_grpc.SsmServiceServicer):
    """Sessions named after what should happen."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.streams = TaskStreams(
            self._draft, ssm_pb2.DraftResult, ssm_pb2.DraftResponse, forget=self.forgotten.append
        )
        self.num_messages = 0
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()

    async def _draft(self, item: ssm_pb2.DraftItem) -> AsyncGenerator[ssm_pb2.DraftResult, None]:
        try:
            if item.session_id.startswith("slow"):
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(item.session_id)
            raise
        if item.session_id == "stale":
            raise StaleBaseError(7)
        if item.session_id == "bug":
            raise RuntimeError("secret detail")
        draft = ssm_pb2.Draft(base=item.base + len(item.new_token_ids))
        yield ssm_pb2.DraftResult(session_id=item.session_id, item_id=item.item_id, draft=draft)

    async def Draft(self, request_iterator: Any, context: Any) -> AsyncIterator[ssm_pb2.DraftResponse]:  # noqa: N802
        async def counted() -> AsyncIterator[ssm_pb2.DraftRequest]:
            async for request in request_iterator:
                self.num_messages += 1
                yield request

        async for response in self.streams.serve(counted(), context):
            yield response

    async def GetModelInfo(self, request: Any, context: Any) -> ssm_pb2.SsmServiceGetModelInfoResponse:  # noqa: N802
        raise RuntimeError("secret detail")

    async def Warmup(self, request: Any, context: Any) -> ssm_pb2.SsmServiceWarmupResponse:  # noqa: N802
        raise ResourceExhaustedError("busy", retry_delay_ms=1234)

    async def GetLoad(self, request: Any, context: Any) -> ssm_pb2.SsmServiceGetLoadResponse:  # noqa: N802
        return ssm_pb2.SsmServiceGetLoadResponse()

    async def CloseSession(self, request: Any, context: Any) -> ssm_pb2.SsmServiceCloseSessionResponse:  # noqa: N802
        raise InvalidRequestError.of("session_id", "is unknown")


def server_of(servicer: EchoServicer, address: str = "127.0.0.1:0", **settings: Any) -> Server:
    return Server(
        address,
        lambda server: ssm_pb2_grpc.add_SsmServiceServicer_to_server(servicer, server),
        drain=servicer.streams.drain,
        **{"health": Health([SERVICE_NAME])} | settings,
    )


async def result_of(
    client: WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult], item: ssm_pb2.DraftItem
) -> ssm_pb2.DraftResult:
    """The one result of an item."""
    sent = client.send(item)
    try:
        return await sent.take()
    finally:
        sent.drop()


def client_of(address: str, **settings: Any) -> WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult]:
    client = WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult](
        ReplicaAddress(address),
        lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
        ssm_pb2.DraftRequest,
        **settings,
    )
    client.start()
    return client


async def called(client: WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult]) -> ssm_pb2.DraftResult:
    """Of a plain item, once there is a connection."""
    async with asyncio.timeout(LIMIT_S):
        await client.connected.wait()
        return await result_of(client, ssm_pb2.DraftItem(session_id="a", base=0, new_token_ids=[1, 2]))


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(response.status)


async def until_unhealthy(channel: grpc.aio.Channel) -> None:
    """Returns when the server says that it takes no more."""
    async with asyncio.timeout(LIMIT_S):
        while await health_of(channel, SERVICE_NAME) != NOT_SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
