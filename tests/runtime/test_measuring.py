"""Measuring a model's step times at the start: small sizes first, within a budget, and never while somebody waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specgrove.runtime.measuring import PassMeasurement, measured

SIZES = [1, 2, 4, 8, 16, 32, 64, 128]


async def run_with(
    measurement: PassMeasurement, ms: Callable[[int], float | None], num_passes: int = 1000
) -> tuple[list[int], bool]:
    """The sizes in the order in which they were run, and whether the measurement came to its end before so many passes."""
    order: list[int] = []

    async def run(num_rows: int) -> float | None:
        order.append(num_rows)
        return ms(num_rows)

    return order, await measured(measurement, run, lambda: len(order) < num_passes)


async def test_all_sizes_take_turns() -> None:
    measurement = PassMeasurement(SIZES)
    order, is_complete = await run_with(measurement, lambda rows: 5 + rows / 10)
    assert order == SIZES * 3
    assert is_complete
    assert measurement.times == [(rows, 5 + rows / 10) for rows in SIZES]


async def test_the_least_of_all_turns_counts() -> None:
    times = iter([9.0, 9.0, 3.0, 4.0, 5.0, 9.0])
    measurement = PassMeasurement([1, 2])
    await run_with(measurement, lambda rows: next(times))
    assert measurement.times == [(1, 3.0), (2, 4.0)]


@pytest.mark.parametrize("pass_ms", [60.0, 400.0, 1500.0, 5000.0])
async def test_a_large_model_keeps_to_the_budget(pass_ms: float) -> None:
    measurement = PassMeasurement(SIZES, budget_ms=2000)
    order, is_complete = await run_with(measurement, lambda rows: pass_ms * (1 + rows / 8))
    spent_ms = sum(pass_ms * (1 + rows / 8) for rows in order)
    assert is_complete
    assert spent_ms <= max(2000, 1.2 * pass_ms)  # the first pass can't be foreseen
    assert order[0] == 1


async def test_requests_come_first() -> None:
    measurement = PassMeasurement(SIZES)
    order, is_complete = await run_with(measurement, lambda rows: 10.0, num_passes=3)
    assert not is_complete
    assert order == [1, 2, 4]
    assert measurement.times == [(1, 10.0), (2, 10.0), (4, 10.0)]


async def test_sizes_without_room_are_left_out() -> None:
    measurement = PassMeasurement(SIZES)
    _, is_complete = await run_with(measurement, lambda rows: None if rows > 8 else 1.0)
    assert is_complete
    assert [rows for rows, _ in measurement.times] == [1, 2, 4, 8]
