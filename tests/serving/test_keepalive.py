"""Peers that are stopped or cut off: noticed within seconds between services, with more patience towards clients."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from specgrove.errors import UnavailableError, WorkLostError
from specgrove.serving import address
from specgrove.serving.address import channel_options, client_channel_options, server_options
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.v1 import ssm_pb2
from tests.serving.toy_service import EchoServicer, client_of, result_of, server_of
from tests.waiting import LIMIT_S, until


def seconds_to_notice(options: list[tuple[str, int]]) -> float:
    given = dict(options)
    waits = given["grpc.keepalive_timeout_ms"], given["grpc.http2.ping_timeout_ms"]
    return (given["grpc.keepalive_time_ms"] + max(waits)) / 1e3


def test_services_notice_in_ten_seconds_and_public_servers_in_a_minute() -> None:
    assert seconds_to_notice(channel_options()) <= 10
    assert seconds_to_notice(server_options()) <= 10
    assert 30 <= seconds_to_notice(server_options(is_public=True)) <= 60
    clients = dict(client_channel_options())
    assert clients["grpc.keepalive_time_ms"] >= 300_000
    assert clients["grpc.keepalive_permit_without_calls"] == 0


class CuttableLink:
    """Forwards bytes to a server, until it is cut: then both ends hear nothing any more, as when a cable is pulled."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._is_up = asyncio.Event()
        self._is_up.set()
        self._server: asyncio.Server

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._is_up.clear()

    def mend(self) -> None:
        self._is_up.set()

    def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(65536):
                await self._is_up.wait()
                writer.write(content)
                await writer.drain()
        writer.close()


async def answer_of(client: WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult]) -> ssm_pb2.DraftResult:
    """Asks again where a slow machine made the client take the link for cut."""
    while True:
        await client.connected.wait()
        with contextlib.suppress(UnavailableError):
            return await result_of(client, ssm_pb2.DraftItem(session_id="s"))


async def test_a_link_that_is_cut_is_noticed_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    faster = [(name, value // 10 if name.endswith("_ms") else value) for name, value in address._KEEPALIVE]
    monkeypatch.setattr(address, "_KEEPALIVE", tuple(faster))
    servicer = EchoServicer()
    server = server_of(servicer)
    link = CuttableLink(await server.start())
    client = client_of(await link.start())
    async with asyncio.timeout(LIMIT_S):
        await client.connected.wait()
        call = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow")))
        await until(lambda: servicer.streams.num_pending_items == 1)
        link.cut()
        with pytest.raises(UnavailableError) as info:
            await call
        assert not isinstance(info.value, WorkLostError)  # no work cuts a link
        link.mend()
        assert (await answer_of(client)).HasField("draft")
    await client.close()
    link.close()
    await server.stop(0)
