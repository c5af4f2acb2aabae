"""How large a session's next trees should be. One policy per request; what is measured is shared by all of them.

``AdaptiveTreePolicy`` maximises expected output tokens per millisecond, from the replica's time by rows, what drafting and waiting
take, and how often each depth was accepted. Where drafting doesn't pay it asks for nothing, and that costs nothing: the steps are
then those of a request without speculation. Whether drafting has begun to pay is found out within a budget (``Exploration``): by
*probes*, trees that are drafted beside the verifier's own steps and only compared with what it decides, where acceptance is in
doubt; by *trials*, a few steps with or without a tree, where times are. Because of invariant 2 all this changes the speed, never
the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from router.acceptance import DepthCounts, expected_tokens, most_expected_tokens
from router.config import TreeConfig
from router.measurements import Measurements, ReplicaLoad, SessionTimes
from specgrove.loop.planning import TreePolicy
from specgrove.loop.request import MAX_NUM_STEPS_AHEAD, GenerationRequest, Step, TreePrices, TreeShape

_NO_TREE = TreeShape(max_num_nodes=0, max_depth=0, num_steps=MAX_NUM_STEPS_AHEAD)
_PROBE_SHAPE = TreeShape(max_num_nodes=4, max_depth=4)
_NUM_NODES_CHOICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_DEPTH_CHOICES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
# A choice to draft holds for this many steps: choosing takes about 100 us. One not to draft holds while the verifier goes on by itself.
_NUM_STEPS_PER_CHOICE = 4
# After a probe that was accepted, the next question comes after fewer steps.
_NUM_STEPS_AFTER_HIT = 16
# Observations after which one counts half as much, in a session.
_SESSION_DECAY = 0.5 ** (1 / 32)
# Before anything was drafted: how often a candidate is right, and how many observations that is worth.
_FIRST_GUESS = 0.6
_GUESS_WEIGHT = 2.0
# So many tokens an output is taken to have at most, when drafters' reading has to pay.
_TYPICAL_NUM_TOKENS = 256
# Drafting begins where it should gain this much: estimates are noisy, and the best of many looks better than it is.
_MIN_GAIN = 1.04
# How far from the mean, in standard deviations, hope goes.
_OPTIMISM = 1.5
# Of a row's price what a node must promise to be proposed.
_NODE_PRICE_SHARE = 0.25
# Steps without trees that show how long those take: made first where none was seen yet, and without asking what they cost where their
# time is as uncertain as this.
_NUM_TRIAL_STEPS = 3
_MAX_DEVIATION = 0.2


class StaticTreePolicy:
    """Always the same shape. Others learn from the times of its steps."""

    def __init__(self, shape: TreeShape, times: SessionTimes | None = None) -> None:
        self._shape = shape
        self._times = times

    def shape(self) -> TreeShape:
        """The shape."""
        return self._shape

    def observe(self, step: Step) -> None:
        """Counts the times."""
        if self._times is not None:
            self._times.observe(step)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A shape, and the time that a token is expected to take with it."""

    shape: TreeShape
    ms_per_token: float

    @property
    def size(self) -> tuple[int, int]:
        """Nodes and depth."""
        return self.shape.max_num_nodes, self.shape.max_depth


class AdaptiveTreePolicy:
    """The shape with the most expected tokens per millisecond, within ``bounds``."""

    def __init__(
        self,
        bounds: TreeShape,
        times: SessionTimes,
        *,
        ssms: tuple[str, ...] = (),
        num_prompt_tokens: int = 0,
        max_tokens: int = _TYPICAL_NUM_TOKENS,
    ) -> None:
        """``ssms`` are those that the client asked for; empty: all."""
        self._bounds = bounds
        self._times = times
        self._exploration = times.shared.exploration
        self._acceptance = DepthCounts(_SESSION_DECAY)
        self._acceptance_of_all = times.shared.acceptance(ssms)
        self._choice = _NO_TREE
        self._num_steps_to_choice = 0
        self._is_drafting = False
        self._trial: float | None = None  # while one is made, the time that a token takes otherwise
        self._was_hit = False
        self._num_unread_tokens = num_prompt_tokens
        self._num_tokens_left = min(max_tokens, _TYPICAL_NUM_TOKENS)

    def shape(self) -> TreeShape:
        """The shape for the next step; where it is empty, the number of steps that it holds for, and perhaps a probe."""
        if self._num_steps_to_choice <= 0:
            self._choose()
        self._num_steps_to_choice -= 1
        return self._choice

    def observe(self, step: Step) -> None:
        """Counts a step."""
        self._times.observe(step)
        self._num_unread_tokens += len(step.tokens)
        self._num_tokens_left = max(self._num_tokens_left - len(step.tokens), 1)
        if step.reading is not None:
            self._num_unread_tokens = 0
            if not self._is_drafting:
                self._exploration.spend(step.reading.ms * self._times.load.num_sessions)
        if step.probe is not None:
            self._exploration.spend(step.probe.draft_ms * self._times.load.num_sessions)
            self._was_hit = step.probe.accepted_depth > 0
            self._count(step.probe.num_nodes, step.probe.asked_depth, step.probe.accepted_depth)
        if step.drafted_depth > 0:
            self._num_unread_tokens = 0
            self._count(step.num_drafted_nodes, step.asked_depth, step.accepted_depth)
        elif step.draft_ms > 0:
            self._count(0, step.asked_depth, 0)
        elif not self._is_drafting:
            self._acceptance.fade(step.num_steps)
        if self._trial is not None and (step.drafted_depth > 0 or self._is_drafting):
            self._pay_for_trial(step, self._trial)

    def _count(self, num_nodes: int, asked_depth: int, accepted_depth: int) -> None:
        """A tree that ends above the depth asked for misses there. One without nodes is as good as a wrong token."""
        num_nodes = max(num_nodes, 1)
        self._acceptance.add(num_nodes, asked_depth, accepted_depth)
        self._acceptance_of_all.add(num_nodes, asked_depth, accepted_depth)

    def _pay_for_trial(self, step: Step, usual_ms: float) -> None:
        """A trial cost this session what its tokens would have taken less as usual, and all others what the pass was longer."""
        load = self._times.load
        own_ms = max(step.wall_ms - len(step.tokens) * usual_ms, 0.0)
        num_rows = load.num_sessions + step.num_drafted_nodes
        longer_ms = load.row_times.ms(num_rows) - load.row_times.ms(load.num_sessions)
        self._exploration.spend(own_ms + (load.num_sessions - 1) * longer_ms)

    def _choose(self) -> None:
        load = self._times.load
        self._trial = None
        if not load.row_times.is_known:
            self._choice, self._num_steps_to_choice = replace(_NO_TREE, num_steps=1), 1
            return
        best = self._best(load, min_gain=1.0 if self._is_drafting else _MIN_GAIN)
        self._is_drafting = best is not None and (self._is_drafting or self._pays_for_reading(best, load))
        if best is not None and self._is_drafting:
            self._choose_to_draft(best, load)
            if not self._times.has_begun:
                self._num_steps_to_choice = 1  # when the prompt has been read others may have come
        else:
            self._choose_not_to_draft(load)

    def _choose_to_draft(self, best: _Candidate, load: ReplicaLoad) -> None:
        self._choice, self._num_steps_to_choice = best.shape, _NUM_STEPS_PER_CHOICE
        if not self._times.has_begun:
            return
        is_unseen = self._times.shared.costs(load.num_sessions).without_ms.num_seen == 0
        is_doubtful = load.row_times.deviation(load.num_sessions) > _MAX_DEVIATION
        may_check = self._exploration.is_affordable or is_doubtful
        if is_unseen or (may_check and self._usual_ms(load, _OPTIMISM) < best.ms_per_token):
            # Without trees it may be as fast: how fast is that by now?
            self._choice, self._num_steps_to_choice = replace(_NO_TREE, num_steps=_NUM_TRIAL_STEPS), 1
            self._trial = best.ms_per_token
        elif self._exploration.is_affordable:
            other = self._best(load, hope_of_times=_OPTIMISM)
            if other is not None and other.size != best.size and other.ms_per_token * _MIN_GAIN < best.ms_per_token:
                self._choice, self._num_steps_to_choice, self._trial = other.shape, 1, best.ms_per_token

    def _choose_not_to_draft(self, load: ReplicaLoad) -> None:
        self._num_steps_to_choice = 1
        self._choice = replace(_NO_TREE, num_steps=_NUM_STEPS_AFTER_HIT) if self._was_hit else _NO_TREE
        if not self._exploration.is_affordable:
            return
        trial = self._best(load, hope_of_times=_OPTIMISM) if self._times.has_begun else None
        if trial is not None:
            self._choice, self._trial = trial.shape, self._usual_ms(load)
        elif self._best(load, hope_of_acceptance=_OPTIMISM) is not None:
            self._choice = replace(self._choice, probe=self._within(_PROBE_SHAPE))

    def _pays_for_reading(self, best: _Candidate, load: ReplicaLoad) -> bool:
        """Whether the output will gain what it takes the drafters to read what they lack."""
        reading_ms = self._num_unread_tokens * self._times.shared.read_ms_per_token.mean
        return self._num_tokens_left * (self._usual_ms(load) - best.ms_per_token) > reading_ms

    def _usual_ms(self, load: ReplicaLoad, hope: float = 0.0) -> float:
        """Of a token without trees."""
        return self._times.shared.usual_ms(load, hope)

    def _best(
        self,
        load: ReplicaLoad,
        *,
        min_gain: float = _MIN_GAIN,
        hope_of_times: float = 0.0,
        hope_of_acceptance: float = 0.0,
    ) -> _Candidate | None:
        """The best shape that gains so much on decoding without trees; ``None`` where there is none."""
        times, num_sessions = load.row_times, load.num_sessions
        costs = self._times.shared.costs(num_sessions)
        with_tree_ms = costs.hoped_with_tree_ms() if hope_of_times else costs.with_tree_ms.mean
        level_ms = costs.level_time.ms(times.ms(1), hope_of_times)
        waited_ms = level_ms * costs.waited_share.mean
        guess = [math.log(1 - _FIRST_GUESS)]
        prior = self._acceptance_of_all.log_misses(guess, self._bounds.max_depth, prior_weight=_GUESS_WEIGHT)
        log_misses = self._acceptance.log_misses(prior, self._bounds.max_depth, hope_of_acceptance)
        best, best_ms = None, self._usual_ms(load) / min_gain
        nums_nodes = [number for number in _NUM_NODES_CHOICES if number <= self._bounds.max_num_nodes]
        passes_ms = times.times([num_sessions * (num_nodes + 1) for num_nodes in nums_nodes], hope_of_times)
        for num_nodes, pass_ms in zip(nums_nodes, passes_ms, strict=True):
            verify_ms = pass_ms + with_tree_ms
            # Choosing is paid for by every request: most is seen not to pay at a glance.
            if verify_ms + waited_ms >= best_ms * most_expected_tokens(log_misses, num_nodes):
                continue
            for max_depth in _DEPTH_CHOICES:
                if max_depth > min(num_nodes, self._bounds.max_depth):
                    break
                num_tokens = expected_tokens(log_misses[:max_depth], num_nodes)
                ms_per_token = (verify_ms + waited_ms * max_depth) / num_tokens
                if ms_per_token < best_ms:
                    best = _Candidate(TreeShape(num_nodes, max_depth, self._bounds.beam_width), ms_per_token)
                    best_ms = ms_per_token
        if best is None:
            return None
        prices = self._prices(load, best, level_ms)
        return replace(best, shape=replace(best.shape, prices=prices))

    def _prices(self, load: ReplicaLoad, best: _Candidate, level_ms: float) -> TreePrices:
        """What a level and a row must bring in tokens, so that they beat the rate that is to be had.

        A row costs all sessions that share the pass its time. Which rows are worth it is settled by the LLM service, which knows all of the
        pass; here those are left out that hardly can be.
        """
        times, num_sessions, num_nodes = load.row_times, load.num_sessions, best.shape.max_num_nodes
        rows_ms = times.ms(num_sessions * (num_nodes + 1)) - times.ms(num_sessions)
        node_prob = rows_ms / num_nodes / best.ms_per_token
        return TreePrices(
            min_level_prob=min(level_ms / best.ms_per_token, 1.0), min_node_prob=min(_NODE_PRICE_SHARE * node_prob, 1.0)
        )

    def _within(self, shape: TreeShape) -> TreeShape:
        return TreeShape(
            min(shape.max_num_nodes, self._bounds.max_num_nodes),
            min(shape.max_depth, self._bounds.max_depth),
            self._bounds.beam_width,
        )


def policy_for(
    request: GenerationRequest, config: TreeConfig, measurements: Measurements, max_num_nodes: int
) -> TreePolicy:
    """A request's policy. A client that gives nodes and depth gets exactly these, up to ``max_num_nodes`` of the service."""
    options, times = (
        request.speculation,
        SessionTimes(measurements, request.session_id, is_sampled=request.sampling.temperature > 0),
    )
    if options.disabled:
        return StaticTreePolicy(_NO_TREE, times)
    shape = TreeShape(
        min(options.max_num_nodes or config.max_num_nodes, max_num_nodes),
        options.max_depth or config.max_depth,
        options.beam_width or config.beam_width,
    )
    is_given = options.max_num_nodes is not None and options.max_depth is not None
    if is_given or not config.is_adaptive:
        return StaticTreePolicy(shape, times)
    return AdaptiveTreePolicy(
        shape,
        times,
        ssms=options.ssms,
        num_prompt_tokens=len(request.prompt_token_ids),
        max_tokens=request.max_tokens,
    )
