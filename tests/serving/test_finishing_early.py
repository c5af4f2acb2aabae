"""Items whose next result is to be their last: told by the client's half of a work stream, understood by the server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from specgrove.addresses import ReplicaAddress
from specgrove.serving.address import MAX_MESSAGE_BYTES
from specgrove.serving.batches import MAX_ITEM_BYTES
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.serving.work_stream_client import SentItem, WorkStreamClient
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.serving.task_streams import TaskStreams
from tests.waiting import LIMIT_S, until

Client = WorkStreamClient[llm_pb2.VerifyItem, llm_pb2.VerifyResult]


class CountingServicer(llm_pb2_grpc.LlmServiceServicer):
    """Numbers its results from 1, until an item is finished early. Each but the first waits for a turn."""

    def __init__(self) -> None:
        self.streams = TaskStreams(
            self._count,
            llm_pb2.VerifyResult,
            llm_pb2.VerifyResponse,
            forget=lambda session_id: None,
            finish_early=lambda item: self.finished_early.append(item.session_id),
        )
        self.finished_early: list[str] = []
        self.messages: list[llm_pb2.VerifyRequest] = []
        self.turns = asyncio.Semaphore(0)

    async def _count(self, item: llm_pb2.VerifyItem) -> AsyncGenerator[llm_pb2.VerifyResult, None]:
        number, has_more = 0, True
        while has_more:
            if number > 0:
                await self.turns.acquire()
            number += 1
            has_more = item.session_id not in self.finished_early
            yield llm_pb2.VerifyResult(
                session_id=item.session_id,
                item_id=item.item_id,
                verdict=llm_pb2.Verdict(base=number, has_more=has_more),
            )

    def Verify(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        async def remembered() -> AsyncIterator[llm_pb2.VerifyRequest]:
            async for request in request_iterator:
                self.messages.append(request)
                yield request

        return self.streams.serve(remembered(), context)


@dataclass(frozen=True, slots=True)
class Both:
    """Both halves, connected."""

    servicer: CountingServicer
    client: Client
    stub: llm_pb2_grpc.LlmServiceStub


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    servicer = CountingServicer()
    server = Server(
        "127.0.0.1:0",
        lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
        health=Health(["specgrove.v1.LlmService"]),
        drain=servicer.streams.drain,
    )
    client = Client(
        ReplicaAddress(await server.start()),
        lambda channel: llm_pb2_grpc.LlmServiceStub(channel).Verify(),
        llm_pb2.VerifyRequest,
    )
    client.start()
    async with asyncio.timeout(LIMIT_S):
        await client.connected.wait()
    yield Both(servicer, client, llm_pb2_grpc.LlmServiceStub(client.channel))
    await client.close()
    await server.stop(0)


async def rest_of(sent: SentItem[llm_pb2.VerifyResult]) -> list[int]:
    """The numbers up to the last one; drops it."""
    found, has_more = [], True
    async with asyncio.timeout(LIMIT_S):
        while has_more:
            verdict = (await sent.take()).verdict
            found.append(verdict.base)
            has_more = verdict.has_more
    sent.drop()
    return found


async def test_it_is_told_together_with_the_items_of_the_same_tick(both: Both) -> None:
    servicer, client = both.servicer, both.client
    items = [llm_pb2.VerifyItem(session_id=name) for name in ("a", "b", "c")]
    a, b = (client.send(item) for item in items[:2])
    assert [(await sent.take()).verdict.base for sent in (a, b)] == [1, 1]
    num_messages = len(servicer.messages)
    c = client.send(items[2])
    a.finish_early()
    b.finish_early()
    assert (await c.take()).verdict.base == 1
    (message,) = servicer.messages[num_messages:]
    assert [item.session_id for item in message.items] == ["c"]
    assert list(message.finish_early_item_ids) == [items[0].item_id, items[1].item_id]
    assert servicer.finished_early == ["a", "b"]
    for _ in range(4):
        servicer.turns.release()
    assert [await rest_of(a), await rest_of(b)] == [[2], [2]]
    assert [(await c.take()).verdict.base for _ in range(2)] == [2, 3]
    c.drop()


async def test_it_is_told_by_itself_where_no_item_is_sent(both: Both) -> None:
    sent = both.client.send(llm_pb2.VerifyItem(session_id="a"))
    await sent.take()
    sent.finish_early()
    await until(lambda: both.servicer.finished_early == ["a"])
    both.servicer.turns.release()
    assert await rest_of(sent) == [2]


async def test_what_has_ended_or_was_never_begun_is_no_error(both: Both) -> None:
    client = both.client
    client.finish_early(0)
    client.finish_early(77)
    sent = client.send(llm_pb2.VerifyItem(session_id="a"))
    await sent.take()
    sent.drop()
    sent.drop()
    sent.finish_early()
    after = client.send(llm_pb2.VerifyItem(session_id="b"))
    await after.take()
    after.drop()
    assert [list(message.finish_early_item_ids) for message in both.servicer.messages] == [[], []]
    # Nor is it where a client says so all the same.
    both.servicer.finished_early.append("c")
    call = both.stub.Verify()
    for request in (
        llm_pb2.VerifyRequest(finish_early_item_ids=[1, 77]),
        llm_pb2.VerifyRequest(items=[llm_pb2.VerifyItem(session_id="c", item_id=1)]),
        llm_pb2.VerifyRequest(finish_early_item_ids=[1]),
        llm_pb2.VerifyRequest(items=[llm_pb2.VerifyItem(session_id="c", item_id=2)]),
    ):
        await call.write(request)
        if request.items:
            assert [result.item_id for result in (await call.read()).results] == [request.items[0].item_id]
            # Those of a and b go on.
            await until(lambda: len([item for stream in both.servicer.streams._streams for item in stream._items]) == 2)
    assert both.servicer.finished_early == ["c"]
    call.cancel()


@pytest.mark.parametrize("name", ["items", "finish_early_item_ids"])
async def test_too_long_lists_end_the_stream(both: Both, name: str) -> None:
    call = both.stub.Verify()
    await call.write(llm_pb2.VerifyRequest(finish_early_item_ids=range(1024)))
    values = [llm_pb2.VerifyItem()] * 1025 if name == "items" else range(1025)
    await call.write(llm_pb2.VerifyRequest(**{name: values}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert name in caught.value.details()
    assert "at most 1024, got 1025" in caught.value.details()


async def test_more_than_a_message_may_have_are_told_in_several() -> None:
    client = Client(ReplicaAddress("127.0.0.1:1"), lambda channel: None, llm_pb2.VerifyRequest)  # type: ignore[arg-type, return-value]
    client._under_way = {item_id: SentItem(item_id, client) for item_id in range(1, 2501)}
    for sent in client._under_way.values():
        sent.finish_early()
    client._outbox = {1: llm_pb2.VerifyItem(item_id=1)}
    requests = client._take_requests()
    assert [len(request.finish_early_item_ids) for request in requests] == [1024, 1024, 452]
    assert [len(request.items) for request in requests] == [1, 0, 0]
    assert [item_id for request in requests for item_id in request.finish_early_item_ids] == list(range(1, 2501))
    assert client._take_requests() == []
    await client.close()


async def test_they_find_room_beside_the_largest_item() -> None:
    client = Client(ReplicaAddress("127.0.0.1:1"), lambda channel: None, llm_pb2.VerifyRequest)  # type: ignore[arg-type, return-value]
    largest = llm_pb2.VerifyItem(item_id=1, session_id="x" * (MAX_ITEM_BYTES - 8))
    largest.session_id += "x" * (MAX_ITEM_BYTES - largest.ByteSize())
    assert largest.ByteSize() == MAX_ITEM_BYTES
    client._under_way = {2**64 - number: SentItem(2**64 - number, client) for number in range(1, 1025)}
    for sent in client._under_way.values():
        sent.finish_early()
    client._outbox = {1: largest}
    requests = client._take_requests()
    assert [len(request.finish_early_item_ids) for request in requests] == [1024]
    assert requests[0].ByteSize() <= MAX_MESSAGE_BYTES
    await client.close()


async def test_another_stream_is_not_told_of_items_that_were_lost() -> None:
    client = Client(ReplicaAddress("127.0.0.1:1"), lambda channel: None, llm_pb2.VerifyRequest)  # type: ignore[arg-type, return-value]
    client._under_way = {1: SentItem(1, client)}
    client.finish_early(1)
    client._lose("gone", has_broken=True)
    assert client._take_requests() == []
    await client.close()
