"""A fresh router gains from its first answers on nearly what the best fixed shape gains, whatever its services measured at their start."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from router.measurements import SessionTimes, StepCosts
from router.static_tree_policy import StaticTreePolicy
from specgrove.loop.output import CommittedToken, Reading, Step
from specgrove.loop.works import MAX_NUM_STEPS_AHEAD, TreeShape
from tests.router.simulated_speed import SIZES, Policy, Suite, serve
from tests.router.simulated_text import Text

# Milliseconds of a pass by rows: two cores of an AMD EPYC with AVX2, SmolLM2-135M in bfloat16. Beyond, rows are as dear as the last ones.
ROWS = {1: 10.3, 4: 12.0, 6: 13.2, 8: 17.3, 12: 25.0, 16: 31.8, 512: 875.0}
# The best one of these times.
FIXED_SHAPE = TreeShape(3, 2)
_NUM_REQUESTS, _NUM_TOKENS = 5, 100
_NUM_SEEDS = 6
_NOISE = 0.12
# By which factor passes take longer with noise: see ``Suite.pass_ms``.
_MEAN_NOISE = math.exp(_NOISE**2 / 2) * 1.02


def true_ms(num_rows: int) -> float:
    for (low, low_ms), (high, high_ms) in itertools.pairwise(ROWS.items()):
        if num_rows <= high:
            return low_ms + (high_ms - low_ms) * (num_rows - low) / (high - low)
    raise ValueError(f"{num_rows} rows")


def measured_busy(seed: int) -> Callable[[int], float]:
    """Services come up beside each other: each number of rows was measured wrongly by a factor of its own."""
    return lambda rows: random.Random(seed * 1000 + rows).uniform(1, 1.8)


# By which factor what was measured at the start is wrong, by rows.
STARTS: dict[str, Callable[[int], Callable[[int], float]]] = {
    "quiet": lambda seed: lambda rows: 1.0,
    "busy": measured_busy,
    "dear rows": lambda seed: lambda rows: 1.0 if rows == 1 else 1.6,
}


def fresh(seed: int, hit_rate: float, start: str, num_sessions: int = 1) -> Suite:
    """A router that has served nothing. The very first draft wakes processes up where the machine is busy."""
    waiting_ms = 0.4 * true_ms(num_sessions) if num_sessions > 1 else 0.0
    suite = Suite(
        true_ms, hit_rate=hit_rate, draft_ms=1.0, num_sessions=num_sessions, tree_overhead_ms=1.7 + waiting_ms,
        first_draft_factor=1.0 if start == "quiet" else 20.0, noise=_NOISE, random=random.Random(seed), text=Text(seed, hit_rate),
    )  # fmt: skip
    error = STARTS[start](seed)
    suite.measure(error)
    suite.paying_rows.row_times.learn_measured([(rows, true_ms(rows) * error(rows)) for rows in SIZES])
    return suite


def gain(suite: Suite, policies: Iterator[Policy] | None = None, num_requests: int = _NUM_REQUESTS) -> float:
    """To decoding without trees under the mean noise."""
    spent = serve(suite, policies, num_requests=num_requests, num_tokens=_NUM_TOKENS)
    without_ms = true_ms(suite.num_sessions) * _MEAN_NOISE + suite.overhead_ms
    return spent.num_tokens * without_ms / spent.ms


@pytest.mark.parametrize(("start", "hit_rate"), [("quiet", 0.54), ("busy", 0.54), ("dear rows", 0.54), ("busy", 0.41)])
def test_the_first_answers_gain_nearly_what_there_is_to_gain(start: str, hit_rate: float) -> None:
    """Of the best fixed shape's gain in the same 500 tokens. Some fresh routers decoded most of them without trees, or with one node."""
    shares = []
    for seed in range(_NUM_SEEDS):
        fixed = gain(fresh(seed, hit_rate, start), itertools.repeat(StaticTreePolicy(FIXED_SHAPE)))
        shares.append(gain(fresh(seed, hit_rate, start)) / fixed)
    assert statistics.mean(shares) > 0.985
    assert min(shares) > 0.955


@pytest.mark.parametrize(("hit_rate", "num_sessions"), [(0.15, 1), (0.54, 8)])
def test_where_trees_do_not_pay_finding_out_costs_little_and_once(hit_rate: float, num_sessions: int) -> None:
    """A trial beside seven other sessions costs all of them, and is charged to the one that is looked at."""
    first, later = [], []
    for seed in range(_NUM_SEEDS):
        suite = fresh(seed, hit_rate, "busy", num_sessions)
        first.append(gain(suite))
        later.append(gain(suite, num_requests=12))
    assert statistics.mean(first) > 0.95
    assert statistics.mean(later) > 0.99


def test_what_reading_takes_is_learnt_from_readings_of_many_tokens() -> None:
    """A first request of five tokens kept the next ones, with prompts of some hundred, from drafts."""
    suite = fresh(0, 0.54, "quiet")
    times, step = SessionTimes(suite.measurements, ""), Step((CommittedToken(0),), None, 0, 0, 0, 0.0, 10.0, 1, 0)
    times.observe(replace(step, reading=Reading(5, 8.0)))
    assert suite.policy(num_prompt_tokens=400, max_tokens=100).shape().max_num_nodes > 0
    times.observe(replace(step, reading=Reading(50, 10.0)))
    assert suite.measurements.read_ms_per_token.mean == pytest.approx(0.2)


def test_of_requests_that_come_at_once_one_finds_out() -> None:
    """All others would try the same, and their drafters read at the same time."""
    suite = fresh(0, 0.54, "quiet", num_sessions=8)
    policies = [suite.policy(num_prompt_tokens=75, max_tokens=100) for _ in range(8)]
    step = Step((CommittedToken(0),), None, 0, 0, 0, 0.0, true_ms(8), 8, 0, wall_ms=true_ms(8) + 0.5)
    assert [policy.shape().num_steps for policy in policies] == [1, *[MAX_NUM_STEPS_AHEAD] * 7]
    for policy in policies:
        policy.observe(step)
    assert [policy.shape().max_num_nodes > 0 for policy in policies] == [True, *[False] * 7]
    del policy, policies[0]
    assert suite.policy(num_prompt_tokens=75, max_tokens=100).shape().num_steps == 1


def test_sessions_that_come_together_do_not_all_draft_because_no_tree_was_seen_beside_so_many() -> None:
    """A step with a tree seemed to take no time besides its pass, where those without had been seen to take some."""
    num_trees = 0
    for num_sessions, seed in itertools.product((3, 4, 5), range(3)):
        suite = fresh(seed, 0.54, "quiet")
        serve(suite, num_requests=5, num_tokens=100)
        suite.num_sessions, suite.overhead_ms, suite.draft_ms = num_sessions, 6.0, 4.0
        suite.tree_overhead_ms = suite.overhead_ms + 0.5 * true_ms(num_sessions)
        plain = StaticTreePolicy(TreeShape(0, 0, num_steps=64), SessionTimes(suite.measurements, ""))
        serve(suite, iter([plain]), num_requests=1, num_tokens=30)
        num_trees += serve(suite, num_requests=2, num_tokens=100).num_trees
    assert num_trees <= 25  # it was 45


def test_what_was_seen_of_trees_counts_and_no_guess() -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.without_ms.add(6.0)
    assert costs.expected_with_tree_ms(20.0) == pytest.approx(16.0)
    assert costs.expected_with_tree_ms(0.0) == pytest.approx(6.0)
    costs.with_tree_ms.add(1.0)
    assert costs.expected_with_tree_ms(20.0) == 1.0
