"""Which prompts are answered in which way, and what a pair of answers says."""

from __future__ import annotations

import pytest

from specgrove.measuring.ways import Pair, Way, plan_told, planned_rounds, ways_with
from tests.measuring.made import answers

PROMPTS = tuple(f"prompt {number}" for number in range(13))


def test_all_ssms_together_and_each_alone() -> None:
    assert [way.name for way in ways_with(("a", "b"))] == ["a + b", "a", "b"]
    assert [way.name for way in ways_with(("a",))] == ["a"]


def test_no_prompt_is_answered_with_speculation_twice_and_each_way_comes_first_in_turn() -> None:
    ways = ways_with(("a", "b"))
    rounds = planned_rounds(PROMPTS, ways, num_at_once=2, max_num_rounds=9)
    assert len(rounds) == 2  # of six prompts each; the last one is left over
    asked = [prompt for turns in rounds for turn in turns for prompt in turn.prompts]
    assert sorted(asked) == sorted(PROMPTS[:12])
    assert [[turn.way.name for turn in turns] for turns in rounds] == [["a + b", "a", "b"], ["a", "b", "a + b"]]
    first = {way: [turn.is_incremental_first for turns in rounds for turn in turns if turn.way == way] for way in ways}
    assert first[Way(("a", "b"))] == [False, True]
    assert len(planned_rounds(PROMPTS, ways, 2, max_num_rounds=1)) == 1


def test_too_few_prompts_are_told_with_how_many_are_needed() -> None:
    with pytest.raises(ValueError, match="3 ways with 5 prompts at once take 15 prompts at least, and there are 13"):
        planned_rounds(PROMPTS, ways_with(("a", "b")), 5, 1)


@pytest.mark.parametrize(
    ("num_prompts", "max_num_rounds", "told"),
    [
        (5, 8, "5 prompts: 1 round of 3; the last 2 are left out; a recommendation takes 4 rounds, 12 prompts"),
        (13, 8, "13 prompts: 4 rounds of 3; the last 1 is left out"),
        (12, 8, "12 prompts: 4 rounds of 3"),
        (
            12,
            2,
            "12 prompts: 2 rounds of 3, as many as --rounds allows; the last 6 are left out; "
            "a recommendation takes 4 rounds, 12 prompts",
        ),
    ],
)
def test_it_is_told_which_prompts_are_used(num_prompts: int, max_num_rounds: int, told: str) -> None:
    rounds = planned_rounds(PROMPTS[:num_prompts], ways_with(("a", "b")), 1, max_num_rounds)
    assert plan_told(rounds, num_prompts, num_rounds_needed=4) == told


def test_a_pair_compares_the_time_of_a_token() -> None:
    pair = Pair(speculative=answers(1.0, 7, 8, 9), incremental=answers(1.5, 7, 8, 9))
    assert (pair.speed_up, pair.is_identical) == (1.5, True)
    other = Pair(speculative=answers(1.0, 7, 8, 9, 9), incremental=answers(1.0, 7, 8))
    assert (other.speed_up, other.is_identical) == (2.0, False)
