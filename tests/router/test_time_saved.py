"""The time that speculation is told to save, beside what a simulated suite takes without trees."""

from __future__ import annotations

import pytest

from router.measurements import SessionTimes
from router.speculation_counts import SpeculationCounts
from router.static_tree_policy import StaticTreePolicy
from router.tree_policy import AdaptiveTreePolicy
from specgrove.loop.output import Step
from specgrove.loop.works import TreeShape
from tests.pairs import pairs_and
from tests.router.simulated_speed import BOUNDS, Suite, serve


class Counting:
    """A policy whose steps are counted as the servicer counts them."""

    def __init__(self, policy: StaticTreePolicy | AdaptiveTreePolicy, suite: Suite, counts: SpeculationCounts) -> None:
        self._policy, self._suite, self._counts = policy, suite, counts
        self.true_s = 0.0
        self.num_trees = 0

    def shape(self) -> TreeShape:
        return self._policy.shape()

    def observe(self, step: Step) -> None:
        self._policy.observe(step)
        measurements = self._suite.measurements
        self._counts.add(step, measurements.usual_ms(measurements.load_of("")))
        if step.num_drafted_nodes:
            self.num_trees += 1
            suite = self._suite
            self.true_s += len(step.tokens) * (suite.true_ms(suite.num_sessions) + suite.overhead_ms) / 1e3


def _told_and_true(suite: Suite, policies: list[Counting], counts: SpeculationCounts) -> tuple[float, float]:
    spent = serve(suite, iter(policies), num_requests=len(policies))  # type: ignore[arg-type]
    assert sum(policy.num_trees for policy in policies) > 100
    # Noise makes passes longer, with trees and without.
    return counts.incremental_s, sum(policy.true_s for policy in policies) * spent.noise


# What the replica measured of itself at the start, beside the truth, and how right the time told must be. On a machine that was busy
# just then, passes of few rows took half as long again; steps without trees teach better, as many as the policy makes.
STARTS = {"quiet": (1.0, 0.06), "busy": (1.5, 0.2)}


@pytest.mark.parametrize(("num_sessions", "hit_rate", "start"), pairs_and(pytest.mark.slow, (1, 8), (0.3, 0.8), STARTS))
def test_it_is_about_right(num_sessions: int, hit_rate: float, start: str) -> None:
    suite, counts = Suite(num_sessions=num_sessions, hit_rate=hit_rate, draft_ms=0.2), SpeculationCounts()
    factor, tolerance = STARTS[start]
    suite.measure(lambda rows: factor if rows < 16 else 1.0)
    times = [SessionTimes(suite.measurements, "") for _ in range(40)]
    told, true = _told_and_true(suite, [Counting(AdaptiveTreePolicy(BOUNDS, t), suite, counts) for t in times], counts)
    assert told == pytest.approx(true, rel=tolerance)


def test_with_trees_alone_it_is_as_right_as_what_the_replica_measured_at_its_start() -> None:
    suite, counts = Suite(draft_ms=0.2), SpeculationCounts()
    suite.measure()
    times = [SessionTimes(suite.measurements, "") for _ in range(20)]
    policies = [Counting(StaticTreePolicy(TreeShape(8, 4), t), suite, counts) for t in times]
    told, true = _told_and_true(suite, policies, counts)
    assert told == pytest.approx(true, rel=0.06)
    assert counts.speculative_s < counts.incremental_s
