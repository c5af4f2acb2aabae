"""What may be spent on finding out."""

from __future__ import annotations

from router.exploration import Exploration


def test_the_budget_is_a_share_of_decoding_and_is_not_saved_up_for_long() -> None:
    exploration = Exploration()
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
    exploration = Exploration()
    exploration.earn(10**9, 10)
    exploration.spend(900)
    exploration.earn(29_999, 10)
    assert not exploration.is_affordable
    exploration.earn(2, 10)
    assert exploration.is_affordable
