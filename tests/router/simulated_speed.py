"""Requests decoded by a simulated suite, in no time: what tree policies decide, what it takes, and what it would take without trees.

Time is virtual. The policy, its measurements and calibration, the drafter's growing tree, the merge and the LLM service's choice of rows
are the real ones; true times of passes and levels, and how often which candidate is right, are given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from llm_service.paying_rows import PayingRows
from router.measurements import Measurements, ReplicaLoad, SessionTimes
from router.static_tree_policy import StaticTreePolicy
from router.tree_policy import AdaptiveTreePolicy
from specgrove.loop.drafting import SsmChoice
from specgrove.loop.output import CommittedToken, Probe, Reading, Step, VerifiedTree
from specgrove.loop.row_times import RowTimes
from specgrove.loop.works import TreeShape
from tests.router.simulated_drafts import NO_CANDIDATE, Another, Drafted, draft
from tests.router.simulated_text import Text

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
    """Of the first candidate."""
    told: Callable[[float], float] = lambda prob: prob
    """What the drafter says of a candidate that is right so often."""
    found_rate: float = 1.0
    """How often drafters find anything to draft."""
    another: Another | None = None
    text: Text | None = None
    """What is written; without it each draft meets another place, with ``hit_rate``."""
    overhead_ms: float = 0.5
    tree_overhead_ms: float = 0.7
    num_sessions: int = 1
    noise: float = 0.1
    random: random.Random = field(default_factory=lambda: random.Random(0))
    times: RowTimes = field(default_factory=RowTimes)
    num_passes: int = 0
    sum_of_factors: float = 0.0
    now_ms: float = 0.0

    def __post_init__(self) -> None:
        self.measurements = Measurements(lambda session_id: ReplicaLoad(self.times, self.num_sessions))
        self.paying_rows = PayingRows()

    def measure(self, error: Callable[[int], float] = lambda rows: 1.0) -> None:
        """What the replica measures of itself at the start, and by which factor that is wrong."""
        self.times.learn_measured([(rows, self.true_ms(rows) * error(rows)) for rows in SIZES])

    def pass_ms(self, num_rows: int) -> float:
        """With noise, and now and then a pass that was held up."""
        factor = self.random.lognormvariate(0, self.noise) * (3.0 if self.random.random() < 0.01 else 1.0)
        self.num_passes += 1
        self.sum_of_factors += factor
        return self.true_ms(num_rows) * factor

    def policy(self, **options: int) -> AdaptiveTreePolicy:
        """Of a new request."""
        return AdaptiveTreePolicy(BOUNDS, SessionTimes(self.measurements, ""), **options)

    def end_pass(self, num_rows: int, pass_ms: float, rest_ms: float) -> None:
        """The LLM service learns from it; ``rest_ms`` are until the next one."""
        self.now_ms += pass_ms
        self.paying_rows.observe(num_rows, pass_ms, self.now_ms / 1e3)
        self.now_ms += rest_ms

    def quiet(self) -> Suite:
        """One alike, without noise, that has learnt nothing."""
        return replace(self, noise=0.0, random=random.Random(1), times=RowTimes())

    def draft(self, shape: TreeShape, ssms: tuple[str, ...] = ()) -> Drafted:
        """A tree as drafters make it, and what the verifier would choose along it. ``ssms`` are asked; none named: all."""
        return draft(self, shape, ssms)

    @property
    def ssms(self) -> tuple[str, ...]:
        """The names of all."""
        return ("ssm",) if self.another is None else ("ssm", self.another.name)


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
        choose_ssms = suite.measurements.pauses.choice_for(lambda: suite.ssms)
        for step in _steps(suite, policy, choose_ssms, num_tokens, spent):
            policy.observe(step)
            if suite.text is not None:
                suite.text.position += len(step.tokens)
            spent.num_tokens += len(step.tokens)
            spent.num_steps += step.num_steps
            spent.num_trees += step.drafted_depth > 0
            spent.num_probes += step.probe is not None
    spent.noise = suite.sum_of_factors / max(suite.num_passes, 1)
    return spent


def _steps(suite: Suite, policy: Policy, choose_ssms: SsmChoice, num_tokens: int, spent: Spent) -> Iterator[Step]:
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
            drafted = suite.draft(shape.probe, choose_ssms())
            path = drafted.accepted(range(drafted.tree.num_nodes))
            probe = Probe(
                drafted.tree, shape.probe, len(path), drafted.draft_ms, drafted.proposed,
                drafted.choices[: shape.probe.max_depth + 1], drafted.times,
            )  # fmt: skip
            spent.ms += probe.draft_ms * suite.num_sessions
        if shape.max_num_nodes > 0 and not is_first:
            step = _tree_step(suite, shape, choose_ssms())
            num_unread = 0
            # In a trial the others' passes are longer too, and they wait for the draft.
            if policy is not None and getattr(policy, "_trial", None) is not None:
                longer_ms = suite.true_ms(suite.num_sessions + step.num_drafted_nodes) - suite.true_ms(
                    suite.num_sessions
                )
                spent.ms += (longer_ms + step.draft_ms) * (suite.num_sessions - 1)
            spent.ms += step.wall_ms
            num_left -= len(step.tokens)
            yield step if reading is None else replace(step, reading=reading)
            continue
        num_steps = 1 if shape.max_num_nodes > 0 else min(shape.num_steps, num_left)
        for index in range(num_steps):
            verify_ms = suite.pass_ms(suite.num_sessions)
            wall_ms = verify_ms + suite.overhead_ms
            spent.ms += wall_ms
            suite.end_pass(suite.num_sessions, verify_ms, suite.overhead_ms)
            num_left -= 1
            num_unread += 1
            is_last = index == num_steps - 1
            yield Step(
                (CommittedToken(0),), None, 0, 0, 0, 0.0, verify_ms, suite.num_sessions, 0, 1, wall_ms=wall_ms,
                probe=probe if is_last else None, reading=reading if index == 0 else None,
            )  # fmt: skip
        is_first = False


def _tree_step(suite: Suite, shape: TreeShape, ssms: tuple[str, ...]) -> Step:
    drafted = suite.draft(shape, ssms)
    tree = drafted.tree
    draft_ms = drafted.draft_ms * suite.first_draft_factor
    suite.first_draft_factor = 1.0
    suite.now_ms += draft_ms + suite.tree_overhead_ms
    kept = [list(range(tree.num_nodes))] * suite.num_sessions
    if shape.prices is not None:
        kept = suite.paying_rows.select([tree] * suite.num_sessions, 0, suite.now_ms / 1e3, is_busy=False)
    nodes = kept[suite.random.randrange(suite.num_sessions)]
    num_rows = sum(map(len, kept))
    verify_ms = suite.pass_ms(num_rows)
    suite.end_pass(num_rows, verify_ms, 0.0)
    path = drafted.accepted(nodes)
    verified = VerifiedTree(tree.of_nodes(nodes), drafted.ssms, tuple(nodes.index(node) for node in path))
    depth = max(verified.tree.depths())
    return Step(
        tuple(CommittedToken(token) for token in drafted.choices[: len(path) + 1] or (NO_CANDIDATE,)), None,
        len(nodes) - 1, depth, len(path), draft_ms, verify_ms, num_rows, 0, 1,
        asked=shape, drafted=tree, wall_ms=verify_ms + draft_ms + suite.tree_overhead_ms,
        verified=verified if depth else None, proposed=drafted.proposed, ssm_times=drafted.times,
    )  # fmt: skip


SHAPES = tuple(
    TreeShape(*size) for size in ((1, 1), (2, 2), (3, 2), (3, 3), (4, 3), (6, 4), (8, 4), (8, 6), (16, 6), (16, 8))
)


_HOPELESS_SHARE = 0.8


def best_static(suite: Suite, num_tokens: int = 512, hopeless_share: float = _HOPELESS_SHARE) -> float:
    """The best ratio of any of ``SHAPES``, in hindsight, or 1 without trees. Where one has less than a share of it, larger ones are not
    tried.
    """
    best = 1.0
    for shape in SHAPES:
        quiet = suite.quiet()
        spent = serve(quiet, iter([StaticTreePolicy(shape)]), num_requests=1, num_tokens=num_tokens)
        ratio = spent.ratio(quiet)
        if ratio < hopeless_share * best:
            break
        best = max(best, ratio)
    return best
