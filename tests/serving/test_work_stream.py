"""Both halves of the multiplexed streams over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from specgrove.errors import InternalError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.serving.address import MAX_MESSAGE_BYTES
from specgrove.serving.batches import batches
from specgrove.telemetry.logs import JsonFormatter
from specgrove.v1 import ssm_pb2, token_tree_pb2
from tests.serving.toy_service import EchoServicer, client_of, result_of, server_of
from tests.waiting import LIMIT_S, until


def _item(session_id: str, base: int = 0) -> ssm_pb2.DraftItem:
    return ssm_pb2.DraftItem(session_id=session_id, base=base)


async def test_items_of_one_tick_share_a_message_and_find_their_results() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    results = await asyncio.gather(*(result_of(client, _item(f"s{i}", i)) for i in range(50)))
    assert [result.draft.base for result in results] == list(range(50))
    assert servicer.num_messages == 1
    assert not client._under_way
    await until(lambda: servicer.streams.num_pending_items == 0)  # its server knows only later that they were sent
    await client.close()
    await server.stop(0)


async def test_failures_are_results_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(JsonFormatter("ssm_service"))
    server = server_of(EchoServicer())
    client = client_of(await server.start())
    await client.connected.wait()
    stale, bug, fine = await asyncio.gather(*(result_of(client, _item(name)) for name in ("stale", "bug", "fine")))
    assert (stale.error.code, stale.error.held_len) == (token_tree_pb2.WORK_ERROR_CODE_STALE_BASE, 7)
    assert bug.error.code == token_tree_pb2.WORK_ERROR_CODE_INTERNAL
    (line,) = [json.loads(line) for line in caplog.text.splitlines() if "an item failed" in line]
    assert line["request_id"] == "bug"
    assert fine.HasField("draft")
    await client.close()
    await server.stop(0)


async def test_the_end_of_a_stream_cancels_its_items() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    calls = [asyncio.create_task(result_of(client, _item("slow"))) for _ in range(3)]
    await until(lambda: servicer.streams.num_pending_items == 3)
    await client.close()
    for call in calls:
        with pytest.raises(UnavailableError):
            await call
    await until(lambda: len(servicer.cancelled) == 3)
    await until(lambda: servicer.streams.num_pending_items == 0)
    await server.stop(0)


async def test_reconnects_to_a_server_that_comes_back_and_asks_its_hook_each_time() -> None:
    server = server_of(EchoServicer())
    address = await server.start()
    num_hooks = 0

    async def on_connect(channel: Any) -> None:
        nonlocal num_hooks
        num_hooks += 1
        if num_hooks == 2:
            raise StaleBaseError(0, "not fit")

    client = client_of(address, on_connect=on_connect)
    await client.connected.wait()
    await server.stop(0)
    with pytest.raises(UnavailableError):
        await result_of(client, _item("a"))
    again = server_of(EchoServicer(), address)
    await again.start()
    await asyncio.wait_for(client.connected.wait(), LIMIT_S)
    assert (await result_of(client, _item("a", 5))).draft.base == 5
    assert num_hooks == 3
    await client.close()
    await again.stop(0)


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    call = asyncio.create_task(result_of(client, _item("slow")))
    await until(lambda: servicer.streams.num_pending_items == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert not client._under_way
    await client.close()
    await server.stop(0)


async def test_items_that_their_sessions_closing_overtook_are_refused() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    assert (await result_of(client, _item("s"))).HasField("draft")
    servicer.streams.close_session("s")
    assert (await result_of(client, _item("s"))).error.code == token_tree_pb2.WORK_ERROR_CODE_CANCELLED
    assert (await result_of(client, _item("t"))).HasField("draft")
    await client.close()
    await server.stop(0)


async def test_messages_are_cut_by_bytes_in_both_directions() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    new_token_ids = [2**28 - 1] * 500_000  # 2 MB each: 40 of them are more than a message may have
    items = [ssm_pb2.DraftItem(session_id=f"s{i}", new_token_ids=new_token_ids) for i in range(40)]
    results = await asyncio.gather(*(result_of(client, item) for item in items))
    assert [result.draft.base for result in results] == [500_000] * 40
    assert servicer.num_messages >= 20
    await client.close()
    await server.stop(0)


def test_a_batch_has_few_enough_bytes_and_an_item_of_any_size() -> None:
    small = [ssm_pb2.DraftItem(session_id="x" * 50) for _ in range(150)]
    assert [len(batch) for batch in batches(small)] == [64, 64, 22]
    large = ssm_pb2.DraftItem(session_id="x" * 3_000_000)
    larger = ssm_pb2.DraftItem(session_id="x" * 9_000_000)
    found = list(batches([small[0], large, large, larger, small[1]]))
    assert found == [[small[0], large], [large], [larger], [small[1]]]


async def test_an_item_that_no_message_can_carry_fails_alone() -> None:
    server = server_of(EchoServicer())
    client = client_of(await server.start())
    await client.connected.wait()
    small = asyncio.create_task(result_of(client, _item("small")))
    with pytest.raises(InternalError, match="more than a message may have"):
        await result_of(client, ssm_pb2.DraftItem(session_id="x" * (17 << 20)))
    assert (await small).HasField("draft")
    assert client.connected.is_set()
    await client.close()
    await server.stop(0)


async def test_a_writer_that_fails_ends_the_stream_and_a_new_one_serves() -> None:
    server = server_of(EchoServicer())
    client = client_of(await server.start())
    await client.connected.wait()
    real_type = client._request_type

    def fails_once(**fields: Any) -> Any:
        client._request_type = real_type
        raise TypeError("a defect")

    client._request_type = fails_once
    with pytest.raises(UnavailableError, match="the stream failed"):
        await result_of(client, _item("a"))
    async with asyncio.timeout(LIMIT_S):
        await client.connected.wait()
    assert (await result_of(client, _item("a"))).HasField("draft")
    await client.close()
    await server.stop(0)


async def test_who_was_aboard_a_stream_that_broke_is_told() -> None:
    servicer = EchoServicer()
    server = server_of(servicer)
    address = await server.start()
    client = client_of(address)
    await client.connected.wait()
    for num_calls in (1, 2):
        calls = [asyncio.create_task(result_of(client, _item(f"slow {i}"))) for i in range(num_calls)]
        await until(lambda: servicer.streams.num_pending_items == num_calls)  # noqa: B023
        await server.stop(0)
        for call in calls:
            with pytest.raises(WorkLostError) as caught:
                await call
            assert caught.value.was_alone == (num_calls == 1)
        servicer = EchoServicer()
        server = server_of(servicer, address)
        await server.start()
        async with asyncio.timeout(LIMIT_S):
            await client.connected.wait()
    await client.close()
    await server.stop(0)


async def test_sessions_of_a_stream_that_has_ended_are_forgotten_unless_they_go_on_elsewhere() -> None:
    """Whoever was cut off, or killed, can't close what it had opened."""
    servicer = EchoServicer()
    server = server_of(servicer)
    address = await server.start()
    first, second = client_of(address), client_of(address)
    async with asyncio.timeout(60):
        await asyncio.gather(first.connected.wait(), second.connected.wait())
        for session_id in ("left", "moved", "closed"):
            await result_of(first, ssm_pb2.DraftItem(session_id=session_id))
        await result_of(second, ssm_pb2.DraftItem(session_id="moved"))
        servicer.streams.close_session("closed")
        await first.close()
        await until(lambda: servicer.forgotten == ["left"])
        await result_of(second, ssm_pb2.DraftItem(session_id="moved"))
        await second.close()
        await until(lambda: servicer.forgotten == ["left", "moved"])
    await server.stop(0)


async def test_works_of_one_tick_that_are_more_than_a_message_may_have_go_in_several() -> None:
    """As when many long sessions are replayed at once."""
    servicer = EchoServicer()
    server = server_of(servicer)
    client = client_of(await server.start())
    await client.connected.wait()
    works = [ssm_pb2.DraftItem(session_id=f"s{i}", base=i, new_token_ids=[1 << 20] * 300_000) for i in range(20)]
    assert sum(work.ByteSize() for work in works) > MAX_MESSAGE_BYTES
    results = await asyncio.gather(*(result_of(client, work) for work in works))
    assert [result.draft.base for result in results] == [i + 300_000 for i in range(20)]
    assert 1 < servicer.num_messages <= len(works)
    await client.close()
    await server.stop(0)
