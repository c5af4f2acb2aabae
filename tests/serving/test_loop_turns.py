"""Work in turns: how much an event loop takes on in one of its turns is counted, not timed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from specgrove.serving.call_guard import CallGuard
from specgrove.serving.loop_turns import LoopTurns
from specgrove.v1 import router_pb2

_SHARE = 10


def _done_by_turn(costs: list[int], num_gone: int = 0) -> list[list[int]]:
    """The costs of what was done in each turn of the loop, in order."""
    turns: list[list[int]] = [[]]

    async def run() -> None:
        limited = LoopTurns(_SHARE)

        async def work(cost: int) -> None:
            await limited.take(cost)
            turns[-1].append(cost)

        works = [asyncio.ensure_future(work(cost)) for cost in costs]
        for gone in works[len(works) - num_gone :]:
            gone.cancel()
        while not all(one.done() for one in works):
            await asyncio.sleep(0)
            turns.append([])

    asyncio.run(run())
    return [turn for turn in turns if turn]


@given(st.lists(st.integers(0, 3 * _SHARE), max_size=30))
def test_a_turn_has_its_share_or_one_piece_that_is_larger(costs: list[int]) -> None:
    turns = _done_by_turn(costs)
    assert [cost for turn in turns for cost in turn] == costs
    for turn in turns:
        assert sum(turn) <= _SHARE or sum(turn) - turn[-1] == 0


def test_no_turn_is_left_out() -> None:
    assert _done_by_turn([4, 4, 4, 4, 4]) == [[4, 4], [4, 4], [4]]
    assert _done_by_turn([]) == []


def test_who_went_away_takes_no_turn() -> None:
    assert _done_by_turn([20, 20, 20, 20], num_gone=3) == [[20]]


def test_of_strangers_requests_few_are_read_in_a_turn() -> None:
    turns: list[int] = [0]

    async def run(num_bytes: int, *, is_public: bool) -> int:
        read = CallGuard(is_public=is_public)._reader(router_pb2.TokenizeRequest.FromString)
        content = router_pb2.TokenizeRequest(text="x" * num_bytes).SerializeToString()
        turns[:] = [0]

        async def requests() -> AsyncIterator[bytes]:
            yield content

        async def one() -> None:
            await read(requests())
            turns[-1] += 1

        reading = [asyncio.ensure_future(one()) for _ in range(40)]
        while not all(call.done() for call in reading):
            await asyncio.sleep(0)
            turns.append(0)
        return max(turns)

    # A call costs as much as 4 KiB of its request.
    assert asyncio.run(run(1, is_public=True)) == 15
    assert asyncio.run(run(1_000_000, is_public=True)) == 1
    # Services trust one another.
    assert asyncio.run(run(1_000_000, is_public=False)) == 40
