"""The adaptive policy against a simulated model: it comes close to the best shape, and stops where drafting doesn't pay."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from router.config import TreeConfig
from router.llm_replicas import without_outliers
from router.tree_policy import (
    AdaptiveTreePolicy,
    Measurements,
    StaticTreePolicy,
    interpolated_ms,
    policy_for,
    width_exponent,
)
from specgrove.request import CommittedToken, SpeculationOptions, Step, TreeShape

BOUNDS = TreeShape(32, 8)
StepMs = Callable[[int], float]


class _Simulation:
    """Tokens and milliseconds of steps with given shapes: ``hit_rate`` of one candidate, ``draft_ms`` per level."""

    def __init__(self, hit_rate: float, draft_ms: float, step_ms: StepMs, num_active: int = 1) -> None:
        self.hit_rate, self.draft_ms, self.step_ms, self.num_active = hit_rate, draft_ms, step_ms, num_active
        self.random = random.Random(0)
        self.measurements = Measurements(
            lambda: [(n, step_ms(n)) for n in (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)], lambda: num_active
        )

    def step(self, shape: TreeShape) -> tuple[Step, float]:
        depth = min(shape.max_depth, shape.max_num_nodes)
        accepted = 0
        if depth:
            hit_rate = 1 - (1 - self.hit_rate) ** width_exponent(shape.max_num_nodes / depth)
            while accepted < depth and self.random.random() < hit_rate:
                accepted += 1
        verify_ms = self.step_ms(self.num_active * (shape.max_num_nodes + 1))
        draft_ms = self.draft_ms * depth
        tokens = (CommittedToken(0),) * (accepted + 1)
        num_nodes = shape.max_num_nodes if depth else 0
        return Step(tokens, None, num_nodes, depth, accepted, draft_ms, verify_ms, 1, 0), draft_ms + verify_ms + 0.5

    def tokens_per_ms(self, policy: AdaptiveTreePolicy | StaticTreePolicy, num_steps: int = 1500) -> float:
        num_tokens, total_ms = 0, 0.0
        for shape in shapes_of(policy, num_steps):
            step, step_ms = self.step(shape)
            policy.observe(step)
            num_tokens, total_ms = num_tokens + len(step.tokens), total_ms + step_ms
        return num_tokens / total_ms

    def best_static(self) -> float:
        shapes = [TreeShape(n, d) for n in (0, 1, 2, 4, 8, 16, 32) for d in (1, 2, 4, 6, 8) if d <= n or n == 0]
        return max(self.tokens_per_ms(StaticTreePolicy(shape), 800) for shape in shapes)


def shapes_of(policy: AdaptiveTreePolicy | StaticTreePolicy, num_steps: int) -> Iterator[TreeShape]:
    """The shape of every step."""
    while num_steps > 0:
        shape = policy.shape()
        for _ in range(shape.num_steps):
            yield shape
        num_steps -= shape.num_steps


@pytest.mark.parametrize("hit_rate", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("draft_ms", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("num_active", [1, 8, 64])
def test_comes_close_to_the_best_static_shape(hit_rate: float, draft_ms: float, num_active: int) -> None:
    simulation = _Simulation(hit_rate, draft_ms, lambda rows: 12 + 0.25 * rows, num_active)
    adaptive = simulation.tokens_per_ms(AdaptiveTreePolicy(BOUNDS, simulation.measurements))
    assert adaptive > 0.9 * simulation.best_static()


def test_stops_where_drafting_does_not_pay_and_starts_again_when_it_does() -> None:
    simulation = _Simulation(0.02, 5.0, lambda rows: 10.0 * rows)
    policy = AdaptiveTreePolicy(BOUNDS, simulation.measurements)
    simulation.tokens_per_ms(policy, 400)
    shapes = list(shapes_of(policy, 1000))
    assert 7 <= sum(shape.max_num_nodes > 0 for shape in shapes) <= 9
    simulation.hit_rate, simulation.draft_ms = 0.95, 0.1
    simulation.step_ms = lambda rows: 10.0
    simulation.measurements._step_times = lambda: [(1, 10.0), (64, 10.0)]
    simulation.tokens_per_ms(policy, 400)
    assert all(policy.shape().max_num_nodes > 0 for _ in range(10))


def test_other_sessions_are_the_prior() -> None:
    simulation = _Simulation(0.02, 5.0, lambda rows: 10.0 * rows)
    simulation.tokens_per_ms(AdaptiveTreePolicy(BOUNDS, simulation.measurements), 400)
    assert AdaptiveTreePolicy(BOUNDS, simulation.measurements).shape().max_num_nodes == 0


def test_without_step_times_the_bounds_are_asked_for() -> None:
    assert AdaptiveTreePolicy(BOUNDS, Measurements(list, lambda: 1)).shape() == BOUNDS


def test_is_cheap() -> None:
    simulation = _Simulation(0.6, 1.0, lambda rows: 12 + 0.25 * rows)
    policy = AdaptiveTreePolicy(BOUNDS, simulation.measurements)
    simulation.tokens_per_ms(policy, 50)
    started_s = time.perf_counter()
    for _ in range(400):
        policy.shape()
    # Measured 20 us; the bound leaves room for a busy machine.
    assert (time.perf_counter() - started_s) / 400 < 200e-6


@pytest.mark.parametrize(("rows", "expected"), [(1, 12), (2, 12), (3, 14), (6, 20), (9, 26)])
def test_step_times_between_and_beyond_measurements(rows: int, expected: float) -> None:
    assert interpolated_ms([(2, 12.0), (4, 16.0)], rows) == pytest.approx(expected)


def test_step_times_measured_too_high_come_down() -> None:
    assert without_outliers([(1, 12.0), (2, 30.0), (4, 14.0), (8, 20.0)]) == (
        (1, 12.0),
        (2, 14.0),
        (4, 14.0),
        (8, 20.0),
    )
    assert without_outliers([]) == ()


def test_a_client_gets_what_it_asks_for_up_to_the_service_limit() -> None:
    measurements = Measurements(list, lambda: 1)

    def shape(**options: object) -> TreeShape:
        return policy_for(SpeculationOptions(**options), TreeConfig(), measurements, 63).shape()  # type: ignore[arg-type]

    assert shape(disabled=True).max_num_nodes == 0
    assert shape(max_num_nodes=5, max_depth=3, beam_width=2) == TreeShape(5, 3, 2)
    assert shape(max_num_nodes=1000, max_depth=3).max_num_nodes == 63
    assert shape() == TreeShape(32, 8)


def test_steps_that_share_a_verdict_count_as_steps() -> None:
    def load_after(step: Step) -> float:
        measurements = Measurements(lambda: [(1, 10.0), (64, 20.0)], lambda: 1)
        measurements.add(step)
        return measurements.verify_ms(0)

    one = Step((CommittedToken(0),), None, 0, 0, 0, 0.0, 12.0, 1, 0)
    four = replace(one, tokens=one.tokens * 4, verify_ms=48.0, num_steps=4)
    assert load_after(four) == load_after(one) > 10.0
