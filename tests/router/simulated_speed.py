"""Requests decoded by a simulated suite, in no time: what tree policies decide, what it takes, and what it would take without trees."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from router.acceptance import width_exponent
from router.measurements import Measurements, ReplicaLoad, SessionTimes
from router.tree_policy import AdaptiveTreePolicy, StaticTreePolicy
from specgrove.loop.request import CommittedToken, Probe, Reading, Step, TreeShape
from specgrove.loop.row_times import RowTimes

BOUNDS = TreeShape(32, 8)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
Policy = AdaptiveTreePolicy | StaticTreePolicy


@dataclass
class Suite:
    """What is true, whatever was measured. ``num_sessions`` alike share a replica; the one simulated pays for what all of them do."""

    true_ms: Callable[[int], float] = lambda rows: 10 + 0.2 * rows
    draft_ms: float = 1.0
    """Of a level."""
    first_draft_factor: float = 1.0
    """By which the very first draft takes longer."""
    read_ms: float = 0.05
    """Of a token that drafters take in."""
    hit_rate: float = 0.6
    """Of one candidate."""
    found_rate: float = 1.0
    """How often drafters find anything to draft."""
    overhead_ms: float = 0.5
    tree_overhead_ms: float = 0.7
    num_sessions: int = 1
    noise: float = 0.1
    random: random.Random = field(default_factory=lambda: random.Random(0))
    times: RowTimes = field(default_factory=RowTimes)
    num_passes: int = 0
    sum_of_factors: float = 0.0

    def __post_init__(self) -> None:
        self.measurements = Measurements(lambda session_id: ReplicaLoad(self.times, self.num_sessions))

    def measure(self, error: Callable[[int], float] = lambda rows: 1.0) -> None:
        """What the replica measures of itself at the start, and by which factor that is wrong."""
        self.times.learn_measured([(rows, self.true_ms(rows) * error(rows)) for rows in SIZES])

    def pass_ms(self, num_rows: int) -> float:
        """With noise, and now and then a step that was held up."""
        factor = self.random.lognormvariate(0, self.noise) * (3.0 if self.random.random() < 0.01 else 1.0)
        self.num_passes += 1
        self.sum_of_factors += factor
        return self.true_ms(num_rows) * factor

    def policy(self, **options: int) -> AdaptiveTreePolicy:
        """Of a new request."""
        return AdaptiveTreePolicy(BOUNDS, SessionTimes(self.measurements, ""), **options)

    def accepted(self, num_nodes: int, depth: int) -> int:
        """How deep a tree is right."""
        hit_rate = 1 - (1 - self.hit_rate) ** width_exponent(num_nodes / depth)
        found = 0
        while found < depth and self.random.random() < hit_rate:
            found += 1
        return found


@dataclass
class Spent:
    """Tokens, the time they took, and the time that as many steps without trees take."""

    num_tokens: int = 0
    ms: float = 0.0
    num_trees: int = 0
    num_steps: int = 0
    num_probes: int = 0
    noise: float = 1.0
    """By which factor passes took longer than they should."""

    def ratio(self, suite: Suite) -> float:
        """To decoding without speculation, under the same noise."""
        without_ms = (suite.true_ms(suite.num_sessions) * self.noise + suite.overhead_ms) * self.num_tokens
        return without_ms / self.ms


def serve(
    suite: Suite, policies: Iterator[Policy] | None = None, *, num_requests: int = 20, num_tokens: int = 128
) -> Spent:
    """Requests one after the other (with ``num_sessions`` alike beside each)."""
    spent = Spent()
    suite.num_passes, suite.sum_of_factors = 0, 0.0
    for _ in range(num_requests):
        policy = suite.policy() if policies is None else next(policies)
        for step in _steps(suite, policy, num_tokens, spent):
            policy.observe(step)
            spent.num_tokens += len(step.tokens)
            spent.num_steps += step.num_steps
            spent.num_trees += step.drafted_depth > 0
            spent.num_probes += step.probe is not None
    spent.noise = suite.sum_of_factors / max(suite.num_passes, 1)
    return spent


def _steps(suite: Suite, policy: Policy, num_tokens: int, spent: Spent) -> Iterator[Step]:
    num_left, num_unread, is_first = num_tokens, 50, True
    while num_left > 0:
        shape = policy.shape()
        reading, probe = None, None
        wants_drafts = shape.max_num_nodes > 0 or shape.probe is not None
        if wants_drafts and (num_unread > 64 or is_first or shape.probe is not None):
            reading = Reading(num_unread, suite.read_ms * num_unread)
            spent.ms += reading.ms * suite.num_sessions
            num_unread = 0
        if shape.probe is not None:
            nodes, depth = shape.probe.max_num_nodes, shape.probe.max_depth
            probe = Probe(nodes, depth, suite.accepted(nodes, depth), suite.draft_ms * depth)
            if suite.random.random() > suite.found_rate:
                probe = Probe(0, depth, 0, probe.draft_ms)
            spent.ms += probe.draft_ms * suite.num_sessions
        if shape.max_num_nodes > 0 and not is_first:
            step = _tree_step(suite, shape)
            num_unread = 0
            # In a trial the others' passes are longer too.
            if policy is not None and getattr(policy, "_trial", None) is not None:
                longer_ms = suite.true_ms(suite.num_sessions + shape.max_num_nodes) - suite.true_ms(suite.num_sessions)
                spent.ms += longer_ms * (suite.num_sessions - 1)
            spent.ms += step.wall_ms
            num_left -= len(step.tokens)
            yield replace(step, reading=reading)
            continue
        num_steps = 1 if shape.max_num_nodes > 0 else min(shape.num_steps, num_left)
        for index in range(num_steps):
            verify_ms = suite.pass_ms(suite.num_sessions)
            wall_ms = verify_ms + suite.overhead_ms
            spent.ms += wall_ms
            num_left -= 1
            num_unread += 1
            is_last = index == num_steps - 1
            yield Step(
                (CommittedToken(0),), None, 0, 0, 0, 0.0, verify_ms, suite.num_sessions, 0, 1, 0, wall_ms,
                probe if is_last else None, reading if index == 0 else None,
            )  # fmt: skip
        is_first = False


def _tree_step(suite: Suite, shape: TreeShape) -> Step:
    depth = asked_depth = min(shape.max_depth, shape.max_num_nodes)
    draft_ms = suite.draft_ms * depth * suite.first_draft_factor
    suite.first_draft_factor = 1.0
    num_nodes = shape.max_num_nodes
    if suite.random.random() > suite.found_rate:
        num_nodes = depth = 0
    accepted = suite.accepted(num_nodes, depth) if depth else 0
    num_rows = suite.num_sessions * (num_nodes + 1)
    verify_ms = suite.pass_ms(num_rows)
    wall_ms = verify_ms + draft_ms + suite.tree_overhead_ms
    tokens = (CommittedToken(0),) * (accepted + 1)
    return Step(tokens, None, num_nodes, depth, accepted, draft_ms, verify_ms, num_rows, 0, 1, asked_depth, wall_ms)


def best_static(suite: Suite) -> float:
    """The best ratio of any shape that never changes."""
    shapes = [TreeShape(n, d) for n in (1, 2, 4, 8, 16, 32) for d in (1, 2, 4, 6, 8) if d <= n]
    quiet = replace(suite, noise=0.0, random=random.Random(1))
    return max(
        serve(quiet, iter([StaticTreePolicy(shape)] * 4), num_requests=4, num_tokens=256).ratio(quiet)
        for shape in shapes
    )
