"""One stream's items and mailbox, with an engine's thread that the test plays."""

from __future__ import annotations

import asyncio
import threading

import pytest

from specgrove.errors import StaleBaseError
from specgrove.serving.mailbox import Answer
from specgrove.serving.served_stream import ServedStream, StreamItem
from specgrove.v1 import ssm_pb2

Stream = ServedStream[ssm_pb2.DraftItem, int, str]


def message_of(item_id: int) -> ssm_pb2.DraftItem:
    return ssm_pb2.DraftItem(session_id=f"s{item_id}", item_id=item_id)


def result_of(message: ssm_pb2.DraftItem, number: int) -> str:
    return f"{message.item_id}: {60 // number}"


def stream_of_three() -> tuple[Stream, list[StreamItem[ssm_pb2.DraftItem, int, str]]]:
    stream = Stream(result_of, lambda message, error: f"{message.item_id}: {type(error).__name__}")
    return stream, [stream.add(message_of(item_id)) for item_id in (1, 2, 3)]


async def test_what_is_posted_together_waits_together_in_its_order() -> None:
    stream, (a, b, c) = stream_of_three()
    answers = [Answer(b, 2, False), Answer(a, 3, True), Answer(b, 4, True), Answer(c, StaleBaseError(7), True)]
    engine = threading.Thread(target=stream.post, args=(answers,))
    engine.start()
    await stream.has_changed.wait()
    engine.join()
    assert stream.take_outgoing() == ["2: 30", "1: 20", "2: 15", "3: StaleBaseError"]
    assert [item.is_over for item in (a, b, c)] == [True] * 3
    assert stream.num_pending == 4  # not sent yet
    stream.mark_sent(4)
    assert stream.num_pending == 0


async def test_nothing_comes_after_an_items_last_result() -> None:
    stream, (a, b, c) = stream_of_three()
    stream.take([Answer(a, 1, True)])
    stream.fail(b, StaleBaseError(7))
    stream.take([Answer(a, 2, False), Answer(b, 2, True), Answer(c, 2, False)])
    assert stream.take_outgoing() == ["1: 60", "2: StaleBaseError", "3: 30"]
    assert stream.fail_all(StaleBaseError(0)) == [c.message]
    stream.take([Answer(c, 3, True)])
    assert stream.take_outgoing() == ["3: StaleBaseError"]


async def test_a_result_of_which_no_message_can_be_made_ends_its_item_alone() -> None:
    stream, (a, b, c) = stream_of_three()
    stream.take([Answer(a, 0, False), Answer(b, 2, True), Answer(a, 5, True)])
    assert stream.take_outgoing() == ["1: ZeroDivisionError", "2: 30"]
    assert [a.is_over, b.is_over, c.is_over] == [True, True, False]


async def test_what_is_given_up_gets_nothing() -> None:
    stream, (a, b, c) = stream_of_three()
    stream.take([Answer(b, 2, True)])
    assert {message.item_id for message in stream.under_way({2, 3, 4})} == {3}
    assert {message.item_id for message in stream.give_up()} == {1, 3}
    stream.take([Answer(a, 2, True), Answer(c, 2, True)])
    assert stream.take_outgoing() == ["2: 30"]


async def test_an_ended_stream_is_done_when_all_is_sent_or_raises_what_ended_it() -> None:
    stream, (a, *_) = stream_of_three()
    stream.take([Answer(a, 2, True)])
    stream.end()
    assert not stream.is_done()
    stream.take_outgoing()
    assert stream.is_done()
    broken, _ = stream_of_three()
    broken.end(KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        broken.is_done()


def test_whoever_posts_is_not_hurt_by_an_event_loop_that_is_gone() -> None:
    async def begun() -> tuple[Stream, StreamItem[ssm_pb2.DraftItem, int, str]]:
        stream, (a, *_) = stream_of_three()
        return stream, a

    stream, item = asyncio.run(begun())
    stream.post([Answer(item, 1, True)])
