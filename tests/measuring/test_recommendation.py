"""Which SSMs are recommended, and when none is."""

from __future__ import annotations

from dataclasses import replace

from specgrove.measuring.recommendation import WayResult, recommend
from tests.measuring.made import result


def advice(*results: WayResult) -> tuple[tuple[str, ...] | None, str]:
    found = recommend(results)
    return found.ssms, found.text


def test_the_fewest_ssms_that_are_as_fast_as_the_fastest() -> None:
    both = result("a", "b", speed_up=(1.3, 1.41, 1.5))
    alone = result("a", speed_up=(1.2, 1.4, 1.5))
    other = result("b", speed_up=(0.8, 0.9, 1.0))
    ssms, text = advice(both, alone, other)
    assert ssms == ("a",)
    assert text == (
        "Use --ssm a: 1.40x the speed of plain decoding, half of the prompts between 1.20x and 1.50x. "
        "The others: a + b 1.41x, b 0.90x."
    )
    ssms, text = advice(replace(both, speed_up=alone.speed_up), result("a", speed_up=(1.1, 1.2, 1.3)), other)
    assert ssms == ("a", "b")
    assert text.startswith("Use --ssm a --ssm b: ")


def test_a_gain_that_a_quarter_of_the_prompts_lacks_is_no_recommendation() -> None:
    ssms, text = advice(result("a", speed_up=(0.9, 1.2, 1.4)))
    assert ssms is None
    assert text.startswith("No clear gain. The best is a: 1.20x")


def test_doing_without_is_an_answer() -> None:
    ssms, text = advice(result("a", speed_up=(0.9, 0.95, 1.0)), result("b", speed_up=(0.7, 0.8, 0.9)))
    assert ssms == ()
    assert text.startswith("Do without speculation here (--ssm none): the best, a, makes 0.95x the speed")


def test_a_router_that_has_left_drafting_off_is_believed() -> None:
    ssms, text = advice(result("a", speed_up=(1.4, 1.7, 1.8), drafted_share=0.0))
    assert ssms == ()
    assert "the router found that drafting does not pay here, and left it off" in text


def test_a_gain_that_the_steps_do_not_explain_is_noise() -> None:
    ssms, text = advice(
        result("a", speed_up=(1.2, 1.4, 1.5)), replace(result("b", speed_up=(1.1, 1.27, 1.3)), tokens_per_step=1.03)
    )
    assert ssms is None
    assert text.startswith(
        "Nothing can be told: b had 1.27x the speed of plain decoding, and only 1.03 tokens per step, so something"
    )


def test_few_measurements_say_nothing() -> None:
    ssms, text = advice(result("a", speed_up=(2.0, 2.0, 2.0), num_pairs=3))
    assert ssms is None
    assert text == "Nothing can be told from 3 measurements of each way: it takes 4 rounds, 4 prompts."
    once = result("a", speed_up=(2.0, 2.0, 2.0), num_pairs=1)
    assert recommend([once, once], num_at_once=3).text == (
        "Nothing can be told from 1 measurement of each way: it takes 4 rounds, 24 prompts, or fewer with a smaller --at-once."
    )
