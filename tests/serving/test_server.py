"""The server over real sockets: health, drain, statuses, limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.errors import InternalError, InvalidRequestError, ResourceExhaustedError, UnavailableError
from specgrove.serving.call_guard import CallGuard
from specgrove.serving.server import Server, ServerLimits
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc, token_tree_pb2
from tests.serving.toy_service import (
    NOT_SERVING,
    SERVICE_NAME,
    SERVING,
    EchoServicer,
    called,
    client_of,
    health_of,
    result_of,
    server_of,
    until_unhealthy,
)
from tests.waiting import LIMIT_S, until


@pytest_asyncio.fixture
async def servicer() -> EchoServicer:
    return EchoServicer()


@pytest_asyncio.fixture
async def server(servicer: EchoServicer) -> AsyncIterator[Server]:
    server = server_of(servicer, limits=ServerLimits(max_request_bytes=1 << 20))
    await server.start()
    yield server
    await server.stop(0)


@pytest_asyncio.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


async def test_a_client_is_asked_to_connect_anew_and_its_calls_go_on() -> None:
    server = server_of(EchoServicer(), limits=ServerLimits(max_connection_age_s=0.05))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert (await watch.read()).status == SERVING
        # Asked to go away, the channel has no connection for new calls until there is one.
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.IDLE)
        assert await health_of(channel, SERVICE_NAME) == SERVING
        server.health.set_serving(False)
        assert (await watch.read()).status == NOT_SERVING
    await server.stop(0)


async def test_a_connection_may_be_as_old_as_settings_can_say() -> None:
    server = server_of(EchoServicer(), limits=ServerLimits(max_connection_age_s=9e8))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        assert await health_of(channel, SERVICE_NAME) == SERVING
    await server.stop(0)


async def test_health_by_service_name(server: Server, channel: grpc.aio.Channel) -> None:
    assert [await health_of(channel, name) for name in ("", SERVICE_NAME)] == [SERVING, SERVING]
    server.health.set_serving(False)
    assert [await health_of(channel, name) for name in ("", SERVICE_NAME)] == [NOT_SERVING, NOT_SERVING]


async def test_a_call_that_is_closed_without_a_request_is_answered_and_not_counted(
    server: Server, channel: grpc.aio.Channel
) -> None:
    """Its client may as well have cancelled it, which is no error."""
    ask = channel.stream_unary("/specgrove.v1.SsmService/GetLoad")
    with pytest.raises(grpc.aio.AioRpcError, match="request: is missing") as info:
        await ask(iter(()), timeout=LIMIT_S)
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await ask(iter((b"",)), timeout=LIMIT_S) == b""
    assert not [reading for reading in server._guard.readings() if reading.value]


class IncompleteServicer(EchoServicer):
    """Without one method, and with one that is not done."""

    GetLoad = ssm_pb2_grpc.SsmServiceServicer.GetLoad

    async def Warmup(self, request: object, context: object) -> ssm_pb2.SsmServiceWarmupResponse:  # noqa: N802
        raise NotImplementedError("secret detail")


async def test_a_method_that_is_not_there_is_no_defect_and_one_that_is_not_done_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = server_of(IncompleteServicer())
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = ssm_pb2_grpc.SsmServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as info:
                await stub.GetLoad(ssm_pb2.SsmServiceGetLoadRequest())
            assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "failed" not in caplog.text
            with pytest.raises(grpc.aio.AioRpcError) as info:
                await stub.Warmup(ssm_pb2.SsmServiceWarmupRequest())
            assert info.value.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in (info.value.details() or "")
            assert "secret detail" in caplog.text
    finally:
        await server.stop(0)


async def test_errors_keep_their_type_and_details(channel: grpc.aio.Channel) -> None:
    stub = ssm_pb2_grpc.SsmServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await stub.Warmup(ssm_pb2.SsmServiceWarmupRequest())
    error = error_from_rpc(info.value)
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_delay_ms == 1234
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await stub.CloseSession(ssm_pb2.SsmServiceCloseSessionRequest())
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    invalid = error_from_rpc(info.value)
    assert isinstance(invalid, InvalidRequestError)
    assert invalid.violations[0].field == "session_id"


async def test_a_defect_is_internal_without_its_traceback(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await ssm_pb2_grpc.SsmServiceStub(channel).GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest())
    assert isinstance(error_from_rpc(info.value), InternalError)
    assert "secret" not in str(info.value.details())


async def _one_request() -> AsyncIterator[bytes]:
    yield b""


async def test_a_client_that_left_while_it_was_written_to_is_no_defect_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """grpc fails the write before it cancels the call."""

    left = AsyncMock(write=AsyncMock(side_effect=grpc.aio.InternalError("the call has ended")))

    async def answer(request: object, context: object) -> AsyncIterator[ssm_pb2.DraftResponse]:
        yield ssm_pb2.DraftResponse()

    guard = CallGuard(write_timeout_s=LIMIT_S)
    handler = grpc.unary_stream_rpc_method_handler(answer, ssm_pb2.DraftRequest.FromString)
    await guard._guarded(handler, "/of/Test").stream_stream(_one_request(), left)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert not [reading for reading in guard.readings() if reading.value]


async def test_a_response_that_is_too_large_is_a_defect_of_ours(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc fails the write as it does where the client is gone."""
    monkeypatch.setattr("specgrove.serving.call_guard.MAX_MESSAGE_BYTES", 3)
    context = AsyncMock(write=AsyncMock(side_effect=grpc.aio.InternalError("no")))

    async def answer(request: object, context: object) -> AsyncIterator[ssm_pb2.DraftResult]:
        yield ssm_pb2.DraftResult(session_id="four")

    guard = CallGuard(write_timeout_s=LIMIT_S)
    handler = grpc.unary_stream_rpc_method_handler(answer, ssm_pb2.DraftRequest.FromString)
    await guard._guarded(handler, "/of/Test").stream_stream(_one_request(), context)
    assert "a response of 6 bytes can't be sent: a message may have 3" in caplog.text
    assert [reading.value for reading in guard.readings()] == [{("/of/Test", "INTERNAL"): 1}]


async def test_invalid_utf8_and_too_long_messages_name_the_request(channel: grpc.aio.Channel) -> None:
    close = channel.unary_unary(f"/{SERVICE_NAME}/CloseSession")
    for content, text in ((b"\x0a\x02\xff\xfe", "UTF-8"), (b"\x0a" + b"x" * (2 << 20), "larger than max")):
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await close(content)
        error = error_from_rpc(info.value)
        assert isinstance(error, InvalidRequestError)
        assert text in str(error)
    load = await ssm_pb2_grpc.SsmServiceStub(channel).GetLoad(ssm_pb2.SsmServiceGetLoadRequest())
    assert load == ssm_pb2.SsmServiceGetLoadResponse()


@pytest.mark.parametrize("content", [b"\0", b"\xff" * 9, b"\x0a\x05\x0a\x03\xff\xfe\xfd"], ids=bytes.hex)
async def test_bytes_in_a_work_stream_that_are_no_message_are_refused(
    channel: grpc.aio.Channel, content: bytes
) -> None:
    call = channel.stream_stream("/specgrove.v1.SsmService/Draft")(iter([content]))
    with pytest.raises(grpc.aio.AioRpcError) as info:
        async for _ in call:
            pass
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error_from_rpc(info.value), InvalidRequestError)


async def test_drain_finishes_work_in_progress_and_refuses_new(servicer: EchoServicer, server: Server) -> None:
    client = client_of(server.address)
    await client.connected.wait()
    channel = grpc.aio.insecure_channel(server.address)
    assert await health_of(channel, "") == SERVING
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow", base=3)))
    await until(lambda: servicer.streams.num_pending_items == 1)
    stopping = asyncio.create_task(server.stop(LIMIT_S))
    await until_unhealthy(channel)
    refused = await result_of(client, ssm_pb2.DraftItem(session_id="late"))
    assert refused.error.message == "the service is shutting down"
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await ssm_pb2_grpc.SsmServiceStub(channel).GetLoad(ssm_pb2.SsmServiceGetLoadRequest())
    assert isinstance(error_from_rpc(info.value), UnavailableError)
    assert not stopping.done()
    servicer.gate.set()
    assert (await slow).draft.base == 3
    await asyncio.wait_for(stopping, LIMIT_S)
    await client.close()
    await channel.close()


async def test_drain_gives_up_after_its_time(servicer: EchoServicer, server: Server) -> None:
    client = client_of(server.address)
    await client.connected.wait()
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow")))
    await until(lambda: servicer.streams.num_pending_items == 1)
    await asyncio.wait_for(server.stop(0.1), LIMIT_S)
    with pytest.raises(UnavailableError):
        await slow
    await client.close()


async def test_work_that_a_drain_cuts_off_is_told_so_and_is_not_to_blame() -> None:
    servicer = EchoServicer()
    server = server_of(servicer, cut_off=servicer.streams.cut_off)
    client = client_of(await server.start())
    await client.connected.wait()
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow")))
    await until(lambda: servicer.streams.num_pending_items == 1)
    await asyncio.wait_for(server.stop(0.1), LIMIT_S)
    error = (await slow).error  # not the loss of a peer that may have died of it
    assert error.code == token_tree_pb2.WORK_ERROR_CODE_UNAVAILABLE
    assert error.message == "the service shut down before it was done"
    await client.close()


async def test_a_server_whose_drain_is_cancelled_stops_at_once(servicer: EchoServicer, server: Server) -> None:
    client = client_of(server.address)
    await client.connected.wait()
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow")))
    await until(lambda: servicer.streams.num_pending_items == 1)
    stopping = asyncio.create_task(server.stop(3600.0))
    async with grpc.aio.insecure_channel(server.address) as channel:
        await until_unhealthy(channel)
    stopping.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await stopping
        # Now, not some time later: whoever waits for it may end the event loop next.
        other = server_of(EchoServicer(), server.address)
        assert await other.start() == server.address
        await other.stop(0)
        with pytest.raises(UnavailableError):
            await slow
    await client.close()


async def test_a_taken_port_is_an_error(server: Server) -> None:
    with pytest.raises(OSError, match="another server does; give another port"):
        await server_of(EchoServicer(), server.address).start()


async def test_unix_sockets(tmp_path: Path) -> None:
    server = server_of(EchoServicer(), f"unix:{tmp_path}/socket")
    client = client_of(await server.start())
    assert (await called(client)).draft.base == 2
    await client.close()
    await server.stop(0)
