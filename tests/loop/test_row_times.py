"""Row times: real steps outweigh what was measured once, and what was not seen for long becomes uncertain."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from specgrove.loop.row_times import RowTimes


def pass_ms(num_rows: int) -> float:
    return 10 + 0.5 * num_rows


SIZES = (1, 2, 4, 8, 16, 32, 64)


def measured(factor: float = 1.0) -> RowTimes:
    times = RowTimes()
    times.learn_measured([(rows, pass_ms(rows) * factor) for rows in SIZES])
    return times


def test_nothing_is_known_at_first() -> None:
    times = RowTimes()
    assert not times.is_known
    times.observe(0, 1.0)  # an LLM service that tells no rows
    times.observe(1, 0.0)
    assert not times.is_known
    times.observe(1, 12.0)
    assert times.ms(1) == pytest.approx(12.0)
    assert 12.0 < times.ms(8) < times.ms(32) < 12.0 * 32


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 12, 33, 64])
def test_what_was_measured_holds_between_the_sizes_too(num_rows: int) -> None:
    assert measured().ms(num_rows) == pytest.approx(pass_ms(num_rows), rel=0.03)


def test_a_machine_that_was_twice_as_fast_is_twice_as_fast_for_all_rows() -> None:
    times = measured(0.5)
    for _ in range(30):
        times.observe(1, pass_ms(1))
    assert times.ms(1) == pytest.approx(pass_ms(1), rel=0.05)
    assert times.ms(32) == pytest.approx(pass_ms(32), rel=0.35)


def test_one_size_measured_on_a_busy_machine_is_put_right_by_a_few_real_steps() -> None:
    times = RowTimes()
    times.learn_measured([(rows, pass_ms(rows) * (3.0 if rows == 8 else 1.0)) for rows in SIZES])
    for _ in range(4):
        for rows in (1, 8):
            times.observe(rows, pass_ms(rows))
    assert times.ms(8) == pytest.approx(pass_ms(8), rel=0.15)
    assert times.ms(1) == pytest.approx(pass_ms(1), rel=0.15)


@pytest.mark.parametrize("optimism", [0.0, 1.5])
def test_the_times_of_several_numbers_of_rows_are_those_of_each(optimism: float) -> None:
    generator, times = random.Random(1), measured()
    for _ in range(60):
        rows = generator.choice((1, 4, 12, 40))
        times.observe(rows, pass_ms(rows) * generator.uniform(0.5, 2))
    nums_rows = [1, 2, 7, 8, 9, 33, 64, 400]
    assert list(times.times(nums_rows, optimism)) == [times.ms(num_rows, optimism) for num_rows in nums_rows]
    # By hand: hope is not below that of fewer rows.
    hoped = [math.exp(math.log(times.ms(rows)) - optimism * times.deviation(rows)) for rows in range(1, 65)]
    assert times.ms(64, optimism) == pytest.approx(max(hoped[rows - 1] for rows in (1, 2, 4, 8, 12, 16, 32, 64)))


def test_more_rows_never_take_less() -> None:
    generator = random.Random(0)
    times = RowTimes()
    times.learn_measured([(rows, generator.uniform(5, 50)) for rows in SIZES])
    for _ in range(50):
        times.observe(generator.randrange(1, 70), generator.uniform(5, 50))
        found = [times.ms(rows) for rows in range(1, 100)]
        assert all(next_ms >= ms * (1 - 1e-9) for ms, next_ms in itertools.pairwise(found))


def test_a_step_that_was_held_up_says_little() -> None:
    times = measured()
    for _ in range(50):
        times.observe(1, pass_ms(1))
    times.observe(1, 100 * pass_ms(1))
    assert times.ms(1) < 1.3 * pass_ms(1)


def test_hope_lies_below_and_ends_with_real_steps() -> None:
    times = measured()
    hoped = times.ms(8, 1.5)
    assert times.ms(1, 1.5) <= hoped < 0.7 * times.ms(8)
    for _ in range(10):
        times.observe(8, pass_ms(8))
    assert 0.85 * times.ms(8) < times.ms(8, 1.5) < times.ms(8)


def test_what_was_not_seen_for_long_is_hoped_for_again() -> None:
    times = measured()
    for _ in range(10):
        times.observe(8, pass_ms(8))
    seen = times.deviation(8)
    for _ in range(5000):
        times.observe(1, pass_ms(1))
    assert times.deviation(8) > 5 * seen
    assert times.deviation(1) < 0.05


def test_a_second_measurement_is_weighed_against_what_is_known() -> None:
    times = measured()
    for _ in range(50):
        times.observe(8, pass_ms(8))
    times.learn_measured([(8, 3 * pass_ms(8))])
    assert times.ms(8) == pytest.approx(pass_ms(8), rel=0.1)
