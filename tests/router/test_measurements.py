"""What the router learns of a step's times, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.measurements import ReplicaLoad, SessionTimes
from specgrove.loop.output import CommittedToken, ProposedTree, Step
from tests.router.simulated_speed import BOUNDS
from tests.router.test_tree_policy import BFLOAT16, chain, suite_of


def test_the_step_after_a_tree_says_nothing_of_a_run_without_trees() -> None:
    """It has the way to the verifier in it, which a long run has once."""
    suite = suite_of(BFLOAT16)
    suite.measure()
    times = SessionTimes(suite.measurements, "s")
    without = Step((CommittedToken(0),) * 2, None, 0, 0, 0, 0.0, 20.0, 1, 0, num_steps=2, wall_ms=20.6)
    with_tree = Step(
        (CommittedToken(0),), None, 1, 1, 0, 4.0, 10.0, 2, 0, asked=BOUNDS, drafted=chain(0.5), wall_ms=16.0
    )
    for step in (without, without, with_tree, replace(without, wall_ms=28.0), without):
        times.observe(step)
    found = suite.measurements.costs(1).without_ms
    assert found.mean == pytest.approx(0.3)
    assert found.num_seen == 2


def test_a_level_is_timed_by_the_levels_that_were_drafted() -> None:
    """What a tree of four levels takes was taken for what one level takes, where one token of them was left."""
    suite = suite_of(BFLOAT16)
    suite.measure()
    whole = chain(0.5, 0.3, 0.3, 0.3)
    step = Step(
        (CommittedToken(0),), None, 1, 1, 0, 4.0, 10.0, 2, 0,
        asked=BOUNDS, drafted=chain(0.5), proposed=(ProposedTree("ssm", whole, whole.log_probs),), wall_ms=15.0,
    )  # fmt: skip
    for _ in range(50):
        suite.measurements.observe(step, ReplicaLoad(suite.times, 1))
    assert suite.measurements.costs(1).level_time.ms(10.0) == pytest.approx(1.0, rel=0.1)
