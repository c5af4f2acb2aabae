"""Permits in order of arrival, and places that come back."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace

import pytest

from router import admission as module
from router.admission import Admission
from specgrove.errors import ResourceExhaustedError
from tests.waiting import LIMIT_S


async def _hold(admission: Admission, order: list[int], number: int, gate: asyncio.Event) -> None:
    async with admission.permit():
        order.append(number)
        await gate.wait()


async def test_permits_go_in_order_of_arrival_and_a_full_queue_refuses() -> None:
    admission, order, gate = Admission(2, 3), [], asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, order, number, gate)) for number in range(5)]
    await asyncio.sleep(0)
    assert (order, admission.num_active, admission.num_queued) == ([0, 1], 2, 3)
    with pytest.raises(ResourceExhaustedError) as info:
        async with admission.permit():
            pass
    assert info.value.retry_delay_ms >= 100
    gate.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (admission.num_active, admission.num_queued) == (0, 0)
    await admission.wait_idle()


async def test_a_cancelled_waiter_gives_its_place_back() -> None:
    admission, order, gate = Admission(1, 2), [], asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, order, number, gate)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert admission.num_queued == 1
    gate.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert order == [0, 2]


async def test_a_permit_granted_to_a_waiter_that_is_cancelled_in_the_same_tick_is_passed_on() -> None:
    admission, order, gate = Admission(1, 2), [], asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, order, number, gate)) for number in range(3)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0)
    tasks[1].cancel()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert order[-1] == 2
    assert admission.num_active == 0


async def test_failures_give_the_permit_back() -> None:
    admission = Admission(1, 0)
    for _ in range(3):
        with pytest.raises(ValueError, match="boom"):
            async with admission.permit():
                raise ValueError("boom")
    assert admission.num_active == 0


async def test_a_waiter_that_is_cancelled_in_the_tick_before_its_turn_is_passed_over() -> None:
    admission, order, gate = Admission(1, 3), [], asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, order, number, gate)) for number in range(3)]
    await asyncio.sleep(0)
    gate.set()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2]
    assert (admission.num_active, admission.num_queued) == (0, 0)
    await asyncio.wait_for(admission.wait_idle(), LIMIT_S)


async def test_no_client_holds_more_than_its_share() -> None:
    admission, order, gates = Admission(4, 8, max_num_per_client=3), [], [asyncio.Event() for _ in range(9)]

    async def hold(number: int, client: str | None) -> None:
        async with admission.permit(client):
            order.append(number)
            await gates[number].wait()

    tasks = [asyncio.create_task(hold(number, "greedy")) for number in range(5)]
    await asyncio.sleep(0)
    assert order == [0, 1, 2]
    tasks.append(asyncio.create_task(hold(5, "modest")))
    await asyncio.sleep(0)
    assert order == [0, 1, 2, 5]
    # The place of the modest one is none for the greedy one, but for whoever else waits.
    tasks.append(asyncio.create_task(hold(6, None)))
    await asyncio.sleep(0)
    gates[5].set()
    await asyncio.gather(tasks[5])
    await asyncio.sleep(0)
    assert order == [0, 1, 2, 5, 6]
    gates[0].set()
    await asyncio.gather(tasks[0])
    await asyncio.sleep(0)
    assert order == [0, 1, 2, 5, 6, 3]
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)
    assert sorted(order) == list(range(7))
    assert (admission.num_active, admission.num_queued) == (0, 0)


async def test_no_client_fills_the_queue() -> None:
    admission, order, gate = Admission(4, 4, max_num_per_client=3), [], asyncio.Event()

    async def hold(client: str) -> None:
        async with admission.permit(client):
            order.append(client)
            await gate.wait()

    tasks = [asyncio.create_task(hold("greedy")) for _ in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError, match="which is its share"):
        async with admission.permit("greedy"):
            pass
    tasks.append(asyncio.create_task(hold("modest")))
    await asyncio.sleep(0)
    assert order == ["greedy"] * 3 + ["modest"]
    gate.set()
    await asyncio.gather(*tasks)


async def test_refused_clients_are_told_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 0.0))  # none of the times has come yet
    admission = Admission(2, 0, random=Random(0))
    delays = []
    async with admission.permit(), admission.permit():
        for _ in range(20):
            with pytest.raises(ResourceExhaustedError) as info:
                async with admission.permit():
                    pass
            delays.append(info.value.retry_delay_ms)
    assert len(set(delays)) >= 18
    # Two permits of about 0.2 s each: the twentieth has its turn after two seconds, and is told to come a little early.
    assert 100 <= delays[0] <= 220
    assert 1000 <= delays[19] <= 2200


class Extreme(Random):
    """Draws the least, or the most, that may be."""

    def __init__(self, *, is_most: bool) -> None:
        super().__init__()
        self._is_most = is_most

    def uniform(self, a: float, b: float) -> float:
        return b if self._is_most else a


async def test_delays_are_spread_around_the_time_of_ones_turn() -> None:
    """Some come early, and wait in the queue; some a little late."""
    delays_ms = []
    for is_most in (False, True):
        admission = Admission(1, 0, random=Extreme(is_most=is_most))
        admission._delays._mean_service_s = 10.0
        async with admission.permit():
            with pytest.raises(ResourceExhaustedError) as error:
                await admission.acquire(None, 0)
        delays_ms.append(error.value.retry_delay_ms)
    earliest, latest = delays_ms
    assert 4_000 <= earliest < 9_000
    assert 10_000 < latest <= 12_000


async def test_a_waiter_that_is_sent_away_and_cancelled_in_the_same_tick_gives_no_permit_back() -> None:
    admission, order, gate = Admission(1, 2), [], asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, order, number, gate)) for number in range(2)]
    await asyncio.sleep(0)
    admission.close()
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert admission.num_active == 1
    gate.set()
    await tasks[0]
    assert (order, admission.num_active) == ([0], 0)


async def test_the_queue_is_bounded_by_tokens_too() -> None:
    """A request that nobody waits with may have any number; one that goes gives its tokens' room back."""
    admission, gate = Admission(1, 10, max_num_queued_tokens=100), asyncio.Event()

    async def hold(num_tokens: int) -> None:
        async with admission.permit(num_tokens=num_tokens):
            await gate.wait()

    tasks = [asyncio.create_task(hold(num_tokens)) for num_tokens in (1000, 60, 40)]
    await asyncio.sleep(0)
    assert (admission.num_queued, admission.num_queued_tokens) == (2, 100)
    with pytest.raises(
        ResourceExhaustedError, match="about 100 tokens of prompts, and this one has about 1; 100 may wait"
    ):
        await hold(1)
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    tasks[2] = asyncio.create_task(hold(40))
    await asyncio.sleep(0)
    assert admission.num_queued_tokens == 100
    gate.set()
    await asyncio.gather(*tasks)
    assert (admission.num_queued_tokens, admission.num_active) == (0, 0)
    gate.clear()
    tasks = [asyncio.create_task(hold(num_tokens)) for num_tokens in (1, 5000)]
    await asyncio.sleep(0)
    assert admission.num_queued == 1
    gate.set()
    await asyncio.gather(*tasks)
