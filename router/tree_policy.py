"""How large a session's next trees should be. One policy per request; the router's measurements are shared by all of them.

``AdaptiveTreePolicy`` maximises expected output tokens per millisecond, from: the verifier's time by rows (measured at warm-up), the
drafting time per level, and how often each depth was accepted, of this session and of the router's earlier ones. It asks for
nothing where drafting doesn't pay, and looks again now and then. Because of invariant 2 it changes the speed, never the output.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from router.config import TreeConfig
from specgrove.request import SpeculationOptions, Step, TreeShape
from specgrove.speculation import TreePolicy

_NO_TREE = TreeShape(max_num_nodes=0, max_depth=0)
_PROBE_SHAPE = TreeShape(max_num_nodes=2, max_depth=2)
# Steps without a tree before a probe; each probe that changes nothing doubles them.
_MIN_PROBE_INTERVAL = 16
_MAX_PROBE_INTERVAL = 128
_NUM_NODES_CHOICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_DEPTH_CHOICES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
# A choice holds for this many steps: choosing takes about 50 us.
_NUM_STEPS_PER_CHOICE = 4
# Without a tree the verifier makes this many on its own; then there is a new choice.
_MAX_NUM_STEPS_WITHOUT = 16
# Steps after which an observation counts half as much, in a session and over all sessions.
_SESSION_DECAY = 0.5 ** (1 / 32)
_ROUTER_DECAY = 0.5 ** (1 / 256)
# How many observations the prior (other sessions, else an optimistic guess) is worth against a session's own.
_PRIOR_WEIGHT = 4.0
_FIRST_GUESS = 0.6
# log(miss rate) is taken to grow by this share with each doubling of the candidates at a depth.
_WIDTH_GAIN = 0.37
# How much one step moves the ratio of the verifier's times now to those at warm-up: machines are shared.
_LOAD_WEIGHT = 0.05
# Messages, tokenising, sampling: what a step takes besides drafting and verifying.
_STEP_OVERHEAD_MS = 0.5


@dataclass(slots=True)
class DepthCounts:
    """Decayed counts by depth: how often a drafted depth was reached, and missed; ``widths`` sums the width exponents."""

    decay: float
    num_trials: list[float] = field(default_factory=list)
    num_misses: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Counts a step with a tree: depths up to the first miss were tried."""
        for counts in (self.num_trials, self.num_misses, self.widths):
            counts.extend([0.0] * (step.drafted_depth - len(counts)))
        exponent = width_exponent(step.num_drafted_nodes / step.drafted_depth)
        for depth in range(min(step.accepted_depth + 1, step.drafted_depth)):
            self.num_trials[depth] = self.num_trials[depth] * self.decay + 1
            self.num_misses[depth] = self.num_misses[depth] * self.decay + (depth == step.accepted_depth)
            self.widths[depth] = self.widths[depth] * self.decay + exponent

    def log_misses(self, prior: Sequence[float], num_depths: int) -> list[float]:
        """By depth: the logarithm of the miss rate of a single candidate, ``prior`` mixed in."""
        found: list[float] = []
        for depth in range(num_depths):
            before = prior[depth] if depth < len(prior) else found[-1]
            if depth >= len(self.num_trials) or self.num_trials[depth] == 0:
                found.append(before)
                continue
            num_trials = self.num_trials[depth]
            exponent = (self.widths[depth] + _PRIOR_WEIGHT) / (num_trials + _PRIOR_WEIGHT)
            misses = self.num_misses[depth] + _PRIOR_WEIGHT * math.exp(before * exponent)
            found.append(math.log(min(max(misses / (num_trials + _PRIOR_WEIGHT), 1e-3), 0.999)) / exponent)
        return found


def width_exponent(width: float) -> float:
    """The miss rate of ``width`` candidates is that of one candidate to this power."""
    return 1 + _WIDTH_GAIN * math.log2(max(width, 1.0))


class Measurements:
    """What the router has measured so far; shared by its adaptive policies."""

    def __init__(self, step_times: Callable[[], Sequence[tuple[int, float]]], num_active: Callable[[], int]) -> None:
        """``step_times``: (rows, ms) ascending by rows, empty while unknown; ``num_active``: sessions that share a batch."""
        self._step_times = step_times
        self._num_active = num_active
        self._load_factor = 1.0
        self.draft_ms_per_level = 0.0
        self.acceptance = DepthCounts(_ROUTER_DECAY)

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to choose by."""
        return bool(self._step_times())

    def add(self, step: Step) -> None:
        """Counts a step; one without a tree tells the verifier's time only."""
        if self.is_ready and step.verify_num_tokens > 0:
            ratio = step.verify_ms / step.num_steps / interpolated_ms(self._step_times(), step.verify_num_tokens)
            self._load_factor += _LOAD_WEIGHT * (min(max(ratio, 0.2), 5.0) - self._load_factor)
        if step.drafted_depth == 0:
            return
        self.acceptance.add(step)
        per_level_ms = step.draft_ms / step.drafted_depth
        weight = 0.1 if self.draft_ms_per_level else 1.0
        self.draft_ms_per_level += weight * (per_level_ms - self.draft_ms_per_level)

    def verify_ms(self, num_nodes: int) -> float:
        """Time of a forward pass in which every active session verifies a tree of this size (root not counted)."""
        num_rows = max(self._num_active(), 1) * (num_nodes + 1)
        return interpolated_ms(self._step_times(), num_rows) * self._load_factor


def interpolated_ms(step_times: Sequence[tuple[int, float]], num_rows: int) -> float:
    """Linear between measurements, and along the last ones beyond them."""
    index = min(max(bisect.bisect_left(step_times, (num_rows, 0.0)), 1), len(step_times) - 1)
    if len(step_times) == 1:
        return step_times[0][1] * max(num_rows / step_times[0][0], 1.0)
    (rows, ms), (next_rows, next_ms) = step_times[index - 1], step_times[index]
    return max(ms + (next_ms - ms) * (num_rows - rows) / (next_rows - rows), min(ms, next_ms))


class StaticTreePolicy:
    """Always the same shape."""

    def __init__(self, shape: TreeShape) -> None:
        self._shape = shape

    def shape(self) -> TreeShape:
        """The shape."""
        return self._shape

    def observe(self, step: Step) -> None:
        """Learns nothing."""


class AdaptiveTreePolicy:
    """The shape with the most expected tokens per millisecond, within ``bounds``."""

    def __init__(self, bounds: TreeShape, measurements: Measurements) -> None:
        self._bounds = bounds
        self._measurements = measurements
        self._acceptance = DepthCounts(_SESSION_DECAY)
        self._choice = bounds
        self._num_steps_to_choice = 0
        self._num_steps_without = 0
        self._probe_interval = _MIN_PROBE_INTERVAL

    def shape(self) -> TreeShape:
        """The shape for the next step."""
        if not self._measurements.is_ready:
            return self._bounds
        if self._num_steps_to_choice <= 0:
            self._choice, self._num_steps_to_choice = self._best(), _NUM_STEPS_PER_CHOICE
        if self._choice.max_num_nodes > 0:
            self._num_steps_without, self._probe_interval = 0, _MIN_PROBE_INTERVAL
            self._num_steps_to_choice -= 1
            return self._choice
        num_steps = min(self._probe_interval - self._num_steps_without, _MAX_NUM_STEPS_WITHOUT)
        self._num_steps_to_choice -= max(num_steps, 1)
        if num_steps > 0:
            self._num_steps_without += num_steps
            return replace(_NO_TREE, num_steps=num_steps)
        self._num_steps_without, self._probe_interval = 0, min(self._probe_interval * 2, _MAX_PROBE_INTERVAL)
        return self._within(_PROBE_SHAPE)

    def observe(self, step: Step) -> None:
        """Counts a step; one without a tree says nothing about acceptance."""
        self._measurements.add(step)
        if step.drafted_depth > 0:
            self._acceptance.add(step)

    def _best(self) -> TreeShape:
        measured = self._measurements
        depths = [depth for depth in _DEPTH_CHOICES if depth <= self._bounds.max_depth]
        guess = [math.log(1 - _FIRST_GUESS)]
        prior = measured.acceptance.log_misses(guess, self._bounds.max_depth)
        log_misses = self._acceptance.log_misses(prior, self._bounds.max_depth)
        best, best_rate = _NO_TREE, 1 / (measured.verify_ms(0) + _STEP_OVERHEAD_MS)
        for num_nodes in _NUM_NODES_CHOICES:
            if num_nodes > self._bounds.max_num_nodes:
                break
            verify_ms = measured.verify_ms(num_nodes) + _STEP_OVERHEAD_MS
            for max_depth in depths:
                if max_depth > num_nodes:
                    break
                exponent = width_exponent(num_nodes / max_depth)
                num_tokens = reached = 1.0
                for depth in range(max_depth):
                    reached *= 1 - math.exp(log_misses[depth] * exponent)
                    num_tokens += reached
                rate = num_tokens / (verify_ms + measured.draft_ms_per_level * max_depth)
                if rate > best_rate:
                    best, best_rate = TreeShape(num_nodes, max_depth, self._bounds.beam_width), rate
        return best

    def _within(self, shape: TreeShape) -> TreeShape:
        return TreeShape(
            min(shape.max_num_nodes, self._bounds.max_num_nodes),
            min(shape.max_depth, self._bounds.max_depth),
            self._bounds.beam_width,
        )


def policy_for(
    options: SpeculationOptions, config: TreeConfig, measurements: Measurements, max_num_nodes: int
) -> TreePolicy:
    """A request's policy. A client that gives nodes and depth gets exactly these, up to ``max_num_nodes`` of the service."""
    if options.disabled:
        return StaticTreePolicy(_NO_TREE)
    shape = TreeShape(
        min(options.max_num_nodes or config.max_num_nodes, max_num_nodes),
        options.max_depth or config.max_depth,
        options.beam_width or config.beam_width,
    )
    is_given = options.max_num_nodes is not None and options.max_depth is not None
    if is_given or not config.is_adaptive:
        return StaticTreePolicy(shape)
    return AdaptiveTreePolicy(shape, measurements)
