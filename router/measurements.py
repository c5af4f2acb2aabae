"""What a router has learnt of speed, shared by its tree policies: what trees promise and bring, what steps take besides the forward pass,
and what may be tried out.

Owned by the servicer. The times of forward passes are each replica's (``RowTimes``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from router.calibration import Calibration
from router.exploration import Exploration
from router.ssm_pauses import SsmPauses
from router.tree_gains import TreeGains, num_levels_of
from specgrove.loop.output import ProposedTree, Step
from specgrove.loop.row_times import RowTimes

# After so many observations one counts half as much, over all sessions.
_ROUTER_DECAY = 0.5 ** (1 / 64)
# Sets of SSMs that clients ask for; those of more share one count.
_MAX_NUM_SSM_SETS = 64
# Messages, tokenising, sampling: what a step takes besides drafting and verifying, before it was seen.
_FIRST_OVERHEAD_MS = 0.5
# What one more observation of a time counts at least; and how large it may be beside the mean, once that is known: a process that was
# held up says little.
_MIN_WEIGHT = 0.05
_NUM_SEEN_TO_CLIP = 8
_MAX_TIMES_MEAN = 4.0
# A session that drafts is out of step with the others of its replica: before that was seen, it waits for so much of a pass of theirs.
_FIRST_WAIT_SHARE = 0.5
# A step's time besides the forward pass counts up to this multiple of the pass: clients may be slow to read.
_MAX_OVERHEAD_SHARE = 2.0
# What a step with a tree takes more than one without is hoped to be half of it after so many steps without a tree, or while it was
# seen only so often.
_NUM_STEPS_TO_HOPE = 1000
_NUM_TREES_TO_BELIEVE = 4
# A reading of fewer tokens takes what a message takes, and says little of a token more: one of five made a prompt's look ten times as dear.
_MIN_NUM_READ = 32
# Before any draft was seen a level of one takes this share of a pass of the verifier's with one row.
_FIRST_LEVEL_SHARE = 0.1
# Variances of logarithms of the time of a draft's level: of that first guess, of one draft, and what comes to it from step to step.
_FIRST_LEVEL_NOISE = 1.0
_DRAFT_NOISE = 0.4**2
_LEVEL_DRIFT = 0.3**2 / 2000
_MIN_LEVEL_NOISE = 0.1**2
# One draft's surprise counts up to so many standard deviations. While little is known one that took longer may have woken processes up, as
# the first one does: it counts less, what is known is no surer for it, and the next ones say whether it was so.
_MAX_DEVIATIONS = 2.0
_MAX_DEVIATIONS_ABOVE = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """The replica that a session is on, or would come to."""

    row_times: RowTimes
    num_sessions: int
    """Sessions there, this one counted: they share its passes."""


@dataclass(slots=True)
class RunningMean:
    """The mean of the first observations, then of the latest."""

    mean: float
    num_seen: int = 0

    def add(self, value: float) -> None:
        """One more."""
        self.num_seen += 1
        if self.num_seen > _NUM_SEEN_TO_CLIP:
            value = min(value, _MAX_TIMES_MEAN * self.mean + _FIRST_OVERHEAD_MS)
        self.mean += max(1 / self.num_seen, _MIN_WEIGHT) * (value - self.mean)


class LevelTime:
    """What one level of a draft takes. Drafts are seen only while they are asked for, so what is known of them becomes uncertain."""

    def __init__(self, other: LevelTime | None = None) -> None:
        """Begins with what ``other`` knows, as a guess."""
        self._log_ms: float | None = other._log_ms if other is not None else None
        self._variance = _FIRST_LEVEL_NOISE

    @property
    def is_known(self) -> bool:
        """Whether anything was seen, here or by the one that it began with."""
        return self._log_ms is not None

    def ms(self, pass_ms: float, optimism: float = 0.0) -> float:
        """The time expected, where a pass of one row takes ``pass_ms``; or so many standard deviations below it."""
        log_ms = self._guess(pass_ms) if self._log_ms is None else self._log_ms
        return math.exp(log_ms - optimism * math.sqrt(self._variance))

    def observe(self, ms: float, pass_ms: float) -> None:
        """One draft took this a level. ``pass_ms`` as in ``ms``, read where nothing is known."""
        log_ms = self._guess(pass_ms) if self._log_ms is None else self._log_ms
        total = self._variance + _DRAFT_NOISE
        deviation = math.sqrt(total)
        surprise = math.log(max(ms, 1e-3)) - log_ms
        most = (_MAX_DEVIATIONS_ABOVE if self._variance > _DRAFT_NOISE else _MAX_DEVIATIONS) * deviation
        gain = self._variance / total
        self._log_ms = log_ms + gain * min(max(surprise, -_MAX_DEVIATIONS * deviation), most)
        if surprise <= most:
            self._variance = max(self._variance * (1 - gain), _MIN_LEVEL_NOISE)

    def fade(self, num_steps: int) -> None:
        """After steps without a draft."""
        self._variance = min(self._variance + _LEVEL_DRIFT * num_steps, _FIRST_LEVEL_NOISE)

    def doubt(self) -> None:
        """It will be another from now on: what was seen is a guess."""
        self._variance = _FIRST_LEVEL_NOISE

    def _guess(self, pass_ms: float) -> float:
        return math.log(_FIRST_LEVEL_SHARE * pass_ms)


@dataclass(slots=True)
class StepCosts:
    """What a step takes besides its forward pass, with so many sessions on a replica: they wait for each other's passes."""

    with_tree_ms: RunningMean = field(default_factory=lambda: RunningMean(_FIRST_OVERHEAD_MS))
    without_ms: RunningMean = field(default_factory=lambda: RunningMean(_FIRST_OVERHEAD_MS))
    level_time: LevelTime = field(default_factory=LevelTime)
    waited_share: RunningMean = field(default_factory=lambda: RunningMean(1.0))
    """Of the drafts those that were waited for; others had been drafted ahead."""
    num_since_tree: int = 0
    """Steps without a tree since the last one with."""

    def expected_with_tree_ms(self, others_pass_ms: float) -> float:
        """What a step with a tree takes; before one was seen no less than one without, and the wait for a pass of the others."""
        if self.with_tree_ms.num_seen:
            return self.with_tree_ms.mean
        return max(self.with_tree_ms.mean, self.without_ms.mean + _FIRST_WAIT_SHARE * others_pass_ms)

    def hoped_with_tree_ms(self) -> float:
        """What a step with a tree may take by now: what was seen long ago, or seldom, is no reason not to look again."""
        num_seen = self.with_tree_ms.num_seen
        faded = math.exp2(-self.num_since_tree / _NUM_STEPS_TO_HOPE) * num_seen / (num_seen + _NUM_TREES_TO_BELIEVE)
        return self.without_ms.mean + (self.with_tree_ms.mean - self.without_ms.mean) * faded


class Measurements:
    """One per router."""

    def __init__(self, load_of: Callable[[str], ReplicaLoad]) -> None:
        """``load_of`` tells a session's replica."""
        self.load_of = load_of
        self.exploration = Exploration()
        self.calibration = Calibration()
        self.pauses = SsmPauses(self.exploration, self._doubt_drafts)
        self.read_ms_per_token = RunningMean(0.0)
        self._gains: dict[tuple[str, ...], TreeGains] = {}
        self._costs: dict[int, StepCosts] = {}

    def _doubt_drafts(self) -> None:
        """Other SSMs draft from now on."""
        for costs in self._costs.values():
            costs.level_time.doubt()

    def gains(self, ssms: tuple[str, ...]) -> TreeGains:
        """What trees brought in all sessions that asked for these SSMs."""
        if ssms not in self._gains and len(self._gains) >= _MAX_NUM_SSM_SETS:
            ssms = ()
        return self._gains.setdefault(ssms, TreeGains(_ROUTER_DECAY))

    def costs(self, num_sessions: int) -> StepCosts:
        """With about so many sessions on a replica. What was not seen yet is taken from fewer."""
        level = max(num_sessions, 1).bit_length()
        if level not in self._costs:
            known = [other for other in self._costs if other < level]
            self._costs[level] = _copy_of(self._costs[max(known)]) if known else StepCosts()
        return self._costs[level]

    def usual_ms(self, load: ReplicaLoad, hope: float = 0.0) -> float:
        """What a token takes without trees, beside as many sessions as the replica has."""
        return load.row_times.ms(load.num_sessions, hope) + self.costs(load.num_sessions).without_ms.mean

    def observe(self, step: Step, load: ReplicaLoad, *, follows_tree: bool = False) -> None:
        """What a step took that did not read a prompt. ``follows_tree``: the session's step before it had drafts."""
        if step.verify_num_rows <= 0 or step.num_steps <= 0:
            return
        verify_ms = step.verify_ms / step.num_steps
        load.row_times.observe(step.verify_num_rows, verify_ms)
        self.exploration.earn(step.wall_ms, step.wall_ms / step.num_steps)
        costs = self.costs(load.num_sessions)
        rest_ms = (step.wall_ms - step.draft_ms) / step.num_steps - verify_ms
        rest_ms = min(max(rest_ms, 0.0), _MAX_OVERHEAD_SHARE * verify_ms)
        if step.drafted is not None and step.drafted.num_nodes == 1 and step.draft_ms > 0:
            # A tree was asked for, in vain: the rest of the time says nothing of either kind of step.
            self._observe_draft(step, load, costs)
            return
        if step.drafted is None or step.drafted.num_nodes == 1:
            if not follows_tree:  # the way to the verifier is one for a whole run of such steps
                costs.without_ms.add(rest_ms)
            costs.num_since_tree += step.num_steps
            costs.level_time.fade(step.num_steps)
            return
        costs.num_since_tree = 0
        costs.with_tree_ms.add(rest_ms)
        costs.waited_share.add(0.0 if step.was_ahead else 1.0)
        self._observe_draft(step, load, costs)

    def _observe_draft(self, step: Step, load: ReplicaLoad, costs: StepCosts) -> None:
        if step.drafted is not None and not step.was_ahead:
            draft_ms = step.draft_ms - self.pauses.trial_ms(step)
            pass_ms = 0.0 if costs.level_time.is_known else load.row_times.ms(1)
            costs.level_time.observe(draft_ms / num_levels_of(step.proposed, step.ssm_times), pass_ms)


class SessionTimes:
    """One session's way to the measurements: knows its replica, and which step reads the prompt."""

    def __init__(self, measurements: Measurements, session_id: str, *, is_sampled: bool = False) -> None:
        self.shared = measurements
        self._is_sampled = is_sampled
        self.has_begun = False
        self._has_drafted = False  # for the last step
        self._session_id = session_id

    @property
    def load(self) -> ReplicaLoad:
        """The load of the session's replica now."""
        return self.shared.load_of(self._session_id)

    def observe(self, step: Step) -> None:
        """Counts a step's times, and what was right. The first one reads the prompt, and says nothing of others."""
        self._observe_proposed(step.proposed, [token.token_id for token in step.tokens])
        if step.probe is not None:
            self._observe_proposed(step.probe.proposed, step.probe.token_ids)
        if step.reading is not None and step.reading.num_tokens >= _MIN_NUM_READ:
            self.shared.read_ms_per_token.add(step.reading.ms / step.reading.num_tokens)
        if self.has_begun:
            self.shared.observe(step, self.load, follows_tree=self._has_drafted)
        self.has_begun = True
        self._has_drafted = step.drafted is not None

    def _observe_proposed(self, trees: Sequence[ProposedTree], token_ids: Sequence[int]) -> None:
        for proposed in trees:
            self.shared.calibration.observe(proposed, token_ids, is_sampled=self._is_sampled)


def _copy_of(costs: StepCosts) -> StepCosts:
    """With the same means, which the first observations replace."""
    return StepCosts(
        RunningMean(costs.with_tree_ms.mean),
        RunningMean(costs.without_ms.mean),
        LevelTime(costs.level_time),
        RunningMean(costs.waited_share.mean),
    )
