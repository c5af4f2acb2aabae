"""What may be spent on finding out."""

from __future__ import annotations

import gc

from router.exploration import Exploration


def in_use() -> Exploration:
    """Of a router that has made many steps, and has nothing saved."""
    exploration = Exploration()
    exploration.earn(10_000, 10)
    exploration.spend(30)
    return exploration


def test_a_fresh_router_may_spend_some_steps_worth_once() -> None:
    exploration = Exploration()
    assert exploration.is_affordable
    exploration.earn(100, 10)
    exploration.spend(59)
    assert exploration.is_new
    exploration.spend(2)
    assert not exploration.is_new
    exploration.spend(1)
    assert not exploration.is_affordable


def test_the_sum_is_of_steps_as_they_are_and_not_of_a_slow_first_one() -> None:
    exploration = Exploration()
    exploration.earn(3_000, 3_000)
    exploration.earn(100, 10)
    exploration.spend(61)
    assert not exploration.is_new


def test_what_was_spent_before_a_step_was_seen_is_of_the_sum() -> None:
    exploration = Exploration()
    exploration.spend(50)
    exploration.earn(100, 10)
    assert exploration.has_saved
    exploration.spend(11)
    assert not exploration.is_new


class Request:
    pass


def test_of_requests_that_come_at_once_one_spends_the_sum_and_not_for_ever() -> None:
    exploration, first, second = Exploration(), Request(), Request()
    exploration.earn(100, 10)
    assert exploration.gives(first)
    exploration.give(first)
    assert exploration.gives(first)
    assert not exploration.gives(second)
    exploration.earn(640, 10)
    assert exploration.gives(second)
    exploration.give(second)
    del second
    gc.collect()
    assert exploration.gives(first)


def test_what_is_given_at_the_start_is_not_kept_for_later() -> None:
    exploration = Exploration()
    exploration.earn(5_110, 10)
    assert exploration.is_new
    exploration.earn(20, 10)
    assert not exploration.is_new
    exploration.spend(20)
    assert not exploration.is_affordable


def test_the_budget_is_a_share_of_decoding_and_is_not_saved_up_for_long() -> None:
    exploration = in_use()
    assert not exploration.is_affordable
    exploration.earn(1000, 10)
    exploration.spend(2.9)
    assert exploration.is_affordable
    exploration.spend(0.2)
    assert not exploration.is_affordable
    exploration.earn(10**9, 10)
    exploration.spend(50)
    assert not exploration.is_affordable


def test_half_a_minute_of_decoding_pays_for_any_trial() -> None:
    """Drafters that read a prompt of 6,000 tokens for one trial ended all others for five minutes."""
    exploration = in_use()
    exploration.earn(10**9, 10)
    exploration.spend(900)
    exploration.earn(29_999, 10)
    assert not exploration.is_affordable
    exploration.earn(2, 10)
    assert exploration.is_affordable
