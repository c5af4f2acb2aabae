"""How large a session's next trees should be, and whether there should be any. One policy per request; what is measured is shared by all.

``AdaptiveTreePolicy`` maximises expected output tokens per millisecond: tokens by what the best nodes of trees promise (``TreeGains``),
milliseconds by the replica's time by rows and by what drafting and waiting take. The trees themselves end where more would not pay: by
the *prices* that go with their shape. Where no tree pays it asks for nothing, and that costs nothing: the steps are
then those of a request without speculation. Whether drafting has begun to pay is found out within a budget (``Exploration``): by
*probes*, trees that are drafted beside the verifier's own steps and only compared with what it decides, where acceptance is in
doubt; by *trials*, a few steps with or without a tree, where times are. Because of invariant 2 all this changes the speed, never
the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from router.config import TreeConfig
from router.hidden_state_wish import HiddenStateWish
from router.measurements import Measurements, ReplicaLoad, SessionTimes
from router.static_tree_policy import StaticTreePolicy
from router.tree_gains import TreeGains, TreePromises, num_levels_of
from specgrove.loop.output import Probe, Step
from specgrove.loop.planning import TreePolicy
from specgrove.loop.request import GenerationRequest, SpeculationOptions
from specgrove.loop.works import MAX_NUM_STEPS_AHEAD, TreePrices, TreeShape
from specgrove.ranges import MIN_TEMPERATURE

_NO_TREE = TreeShape(max_num_nodes=0, max_depth=0, num_steps=MAX_NUM_STEPS_AHEAD, wants_hidden_states=False)
# A choice to draft holds for this many steps. One not to draft holds while the verifier goes on by itself.
_NUM_STEPS_PER_CHOICE = 4
# After a probe that was accepted, the next question comes after fewer steps.
_NUM_STEPS_AFTER_HIT = 16
# Observations after which one counts half as much, in a session.
_SESSION_DECAY = 0.5 ** (1 / 32)
# So many tokens an output is taken to have at most, when drafters' reading has to pay.
_TYPICAL_NUM_TOKENS = 256
# Drafting begins where it should gain this much: estimates are noisy, and the best of many looks better than it is.
_MIN_GAIN = 1.04
# How far from the mean, in standard deviations, hope goes.
_OPTIMISM = 1.5
# More nodes are asked for than pay by the mean.
_NODES_ASKED = 2
_MIN_NODES_ASKED = 6
# Of a row's price what a node must promise to be proposed.
_NODE_PRICE_SHARE = 0.25
# Steps without trees that show how long those take: made where none was seen while drafters read, and without asking what they cost where
# their time is as uncertain as this.
_NUM_TRIAL_STEPS = 3
_MAX_DEVIATION = 0.3


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A shape, and the time that a token is expected to take with it."""

    shape: TreeShape
    ms_per_token: float


class AdaptiveTreePolicy:
    """As many nodes as bring the most expected tokens per millisecond, within ``bounds``."""

    def __init__(
        self,
        bounds: TreeShape,
        times: SessionTimes,
        *,
        ssms: tuple[str, ...] = (),
        reads_hidden_states: Callable[[], bool] = lambda: False,
        num_prompt_tokens: int = 0,
        max_tokens: int = _TYPICAL_NUM_TOKENS,
    ) -> None:
        """``ssms`` are those that the client asked for, which are never paused; empty: all, as long as they are worth their time.

        ``reads_hidden_states``: whether one of those that may be asked now does.
        """
        self._bounds = bounds
        self._times = times
        self._exploration = times.shared.exploration
        self._pauses = None if ssms else times.shared.pauses
        self._gains = TreeGains(_SESSION_DECAY)
        self._gains_of_all = times.shared.gains(ssms)
        self._choice = _NO_TREE
        self._num_steps_to_choice = 0
        self._is_drafting = False
        self._trial: float | None = None  # while one is made, the time that a token takes otherwise
        self._was_hit = False
        self._num_unread_tokens = num_prompt_tokens
        self._num_tokens_left = min(max_tokens, _TYPICAL_NUM_TOKENS)
        self._wish = HiddenStateWish(reads_hidden_states)

    def shape(self) -> TreeShape:
        """The shape for the next step; where it is empty, the number of steps that it holds for, and perhaps a probe."""
        if self._num_steps_to_choice <= 0:
            self._choose()
        self._num_steps_to_choice -= 1
        return self._choice

    def observe(self, step: Step) -> None:
        """Counts a step."""
        has_begun = self._times.has_begun
        self._times.observe(step)
        if self._pauses is not None and has_begun:
            self._pauses.observe(step)
        self._wish.observe(len(step.tokens), reads_prompt=not has_begun, is_told=self._choice.wants_hidden_states)
        self._num_unread_tokens += len(step.tokens)
        self._num_tokens_left = max(self._num_tokens_left - len(step.tokens), 1)
        if step.reading is not None:
            self._num_unread_tokens = 0
            if not self._is_drafting:
                self._exploration.spend(step.reading.ms * self._times.load.num_sessions)
        if step.probe is not None:
            self._exploration.spend(step.probe.draft_ms * self._times.load.num_sessions)
            self._was_hit = step.probe.accepted_depth > 0
            self._count_probe(step.probe)
        if step.drafted is not None and step.draft_ms > 0:
            self._num_unread_tokens = 0
            self._count(step)
        elif not self._is_drafting:
            self._gains.fade(step.num_steps)
        if self._trial is not None and (step.drafted is not None or self._is_drafting):
            self._pay_for_trial(step, self._trial)

    def _count_probe(self, probe: Probe) -> None:
        promises, num_levels = TreePromises(probe.tree), num_levels_of(probe.proposed, probe.ssm_times)
        for gains in (self._gains, self._gains_of_all):
            gains.add(promises, probe.asked.max_num_nodes, num_levels)
            gains.compare(promises.num_tokens, probe.accepted_depth)

    def _count(self, step: Step) -> None:
        """What was drafted, and of that what was verified."""
        assert step.drafted is not None
        assert step.asked is not None
        num_levels = num_levels_of(step.proposed, step.ssm_times)
        promises, promised = TreePromises(step.drafted), 0.0
        if step.verified is not None:
            is_whole = step.verified.tree is step.drafted
            promised = (promises if is_whole else TreePromises(step.verified.tree)).num_tokens
        for gains in (self._gains, self._gains_of_all):
            gains.add(promises, step.asked.max_num_nodes, num_levels)
            gains.compare(promised, step.accepted_depth)

    def _pay_for_trial(self, step: Step, usual_ms: float) -> None:
        """A trial cost this session what its tokens would have taken less as usual; all others what the pass was longer, and the draft."""
        load = self._times.load
        own_ms = max(step.wall_ms - len(step.tokens) * usual_ms, 0.0)
        num_rows = load.num_sessions + step.num_drafted_nodes
        longer_ms = load.row_times.ms(num_rows) - load.row_times.ms(load.num_sessions)
        self._exploration.spend(own_ms + (load.num_sessions - 1) * (longer_ms + step.draft_ms))

    def _choose(self) -> None:
        load = self._times.load
        self._trial = None
        if not load.row_times.is_known:
            self._wish.want(is_drafting=False)
            self._choice = replace(_NO_TREE, num_steps=1, wants_hidden_states=self._wish.is_of_use)
            self._num_steps_to_choice = 1
            return
        best = self._best(load, min_gain=1.0 if self._is_drafting else _MIN_GAIN)
        self._is_drafting = best is not None and (self._is_drafting or self._pays_for_reading(best, load))
        if best is not None and self._is_drafting:
            self._choose_to_draft(best, load)
            if not self._times.has_begun:
                self._num_steps_to_choice = 1  # when the prompt has been read others may have come
        else:
            self._choose_not_to_draft(load)
        # The first tree comes after the prompt, whose hidden states are told.
        is_asking = self._is_drafting and not self._times.has_begun
        if self._wish.is_on and self._wish.num_missing and not is_asking:
            self._wait_to_draft()
        if self._choice.wants_hidden_states and not self._wish.is_of_use:
            self._choice = replace(self._choice, wants_hidden_states=False)

    def _wait_to_draft(self) -> None:
        """Till drafters have been told what they read: the verifier goes on without a tree meanwhile."""
        num_steps = self._wish.num_missing if self._times.has_begun else 1
        self._choice = replace(_NO_TREE, num_steps=num_steps, wants_hidden_states=True)
        self._num_steps_to_choice, self._trial = 1, None

    def _choose_to_draft(self, best: _Candidate, load: ReplicaLoad) -> None:
        self._wish.want(is_drafting=self._times.has_begun)
        # Good trees may be larger than those that pay by the mean. Which nodes are verified is settled when they are there.
        num_asked = min(max(_NODES_ASKED * best.shape.max_num_nodes, _MIN_NODES_ASKED), self._bounds.max_num_nodes)
        self._choice, self._num_steps_to_choice = replace(best.shape, max_num_nodes=num_asked), _NUM_STEPS_PER_CHOICE
        if not self._times.has_begun or self._num_unread_tokens > 0:
            return  # while drafters read there are steps without trees anyway
        is_unseen = self._times.shared.costs(load.num_sessions).without_ms.num_seen == 0
        is_doubtful = load.row_times.deviation(load.num_sessions) > _MAX_DEVIATION
        may_check = (self._exploration.has_saved and not self._exploration.is_new) or is_doubtful
        if is_unseen or (may_check and self._usual_ms(load, _OPTIMISM) < best.ms_per_token):
            # Without trees it may be as fast: how fast is that by now?
            self._choice = replace(_NO_TREE, num_steps=_NUM_TRIAL_STEPS, wants_hidden_states=True)
            self._num_steps_to_choice, self._trial = 1, best.ms_per_token

    def _choose_not_to_draft(self, load: ReplicaLoad) -> None:
        self._num_steps_to_choice = 1
        self._choice = replace(_NO_TREE, num_steps=_NUM_STEPS_AFTER_HIT) if self._was_hit else _NO_TREE
        is_new = self._exploration.gives(self)
        if self._explores(load, is_new=is_new):
            self._wish.want(is_drafting=False)
            self._choice = replace(self._choice, wants_hidden_states=True)
            if is_new:
                self._exploration.give(self)
            return
        self._wish.rest()
        if self._wish.is_on:
            self._choice = replace(self._choice, num_steps=_NUM_STEPS_AFTER_HIT, wants_hidden_states=True)

    def _explores(self, load: ReplicaLoad, *, is_new: bool) -> bool:
        """Chooses a trial or a probe, where there is hope and it may be paid for, of the sum at the start if ``is_new``. Whether it did."""
        if not is_new and not self._exploration.has_saved:
            return False
        trial = self._best(load, hope_of_times=_OPTIMISM) if is_new or self._times.has_begun else None
        if trial is not None and (not is_new or self._pays_for_reading(trial, load)):
            if self._times.has_begun:
                self._choice, self._trial = trial.shape, self._usual_ms(load)
            else:
                self._choice = replace(self._choice, num_steps=1)  # no draft delays the first token
            return True
        hoped = self._best(load, hope_of_gains=_OPTIMISM)
        if hoped is None or (is_new and not self._pays_for_reading(hoped, load)):
            return False
        num_steps = _NUM_STEPS_AFTER_HIT if is_new else self._choice.num_steps
        self._choice = replace(self._choice, num_steps=num_steps, probe=hoped.shape)
        return True

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
        hope_of_gains: float = 0.0,
    ) -> _Candidate | None:
        """The best tree that gains so much on decoding without trees; ``None`` where there is none."""
        num_sessions, usual_ms = load.num_sessions, self._usual_ms(load)
        costs = self._times.shared.costs(num_sessions)
        others_ms = load.row_times.ms(num_sessions) if num_sessions > 1 else 0.0
        with_tree_ms = costs.hoped_with_tree_ms() if hope_of_times else costs.expected_with_tree_ms(others_ms)
        level_ms = costs.level_time.ms(load.row_times.ms(1), hope_of_times)
        waited_ms = level_ms * costs.waited_share.mean
        tokens = self._gains.tokens(
            self._gains_of_all, self._bounds.max_num_nodes, self._bounds.max_depth, hope_of_gains
        )
        # Most is seen not to pay at a glance: all nodes for no rows.
        if usual_ms + waited_ms >= usual_ms / min_gain * tokens[-1, -1]:
            return None
        rows = num_sessions * np.arange(2, tokens.shape[1] + 2)
        passes_ms = np.interp(rows, *load.row_times.points(int(rows[0]), int(rows[-1]), hope_of_times))
        drafts_ms = waited_ms * self._gains_of_all.num_levels(self._bounds.max_depth)
        ms_per_token = (passes_ms + (drafts_ms[:, None] + with_tree_ms)) / tokens
        num_nodes = int(ms_per_token.argmin()) % tokens.shape[1] + 1
        best_ms = float(ms_per_token.min())
        if best_ms >= usual_ms / min_gain:
            return None
        node_ms = (float(passes_ms[num_nodes - 1]) - load.row_times.ms(num_sessions)) / num_nodes
        prices = TreePrices(
            # A level is drafted where the nodes above it are so probable that it will bring its time's worth. Its rows are weighed later.
            min_level_prob=min(level_ms / best_ms / self._gains.level_hit_rate(self._gains_of_all), 1.0),
            min_node_prob=min(max(_NODE_PRICE_SHARE * node_ms / best_ms, 0.0), 1.0),
        )
        shape = TreeShape(num_nodes, self._bounds.max_depth, self._bounds.beam_width, prices=prices)
        return _Candidate(shape, best_ms)


def is_adaptive(options: SpeculationOptions, config: TreeConfig) -> bool:
    """Whether the trees of a request are as large as pays. A client that gives nodes and depth gets exactly these."""
    return config.is_adaptive and not (options.max_num_nodes is not None and options.max_depth is not None)


def policy_for(
    request: GenerationRequest,
    config: TreeConfig,
    measurements: Measurements,
    max_num_nodes: int,
    reads_hidden_states: Callable[[], bool] = lambda: False,
) -> TreePolicy:
    """A request's policy; no tree has more than ``max_num_nodes``, which are the service's.

    ``reads_hidden_states``: whether an SSM that may be asked now does.
    """
    options, times = (
        request.speculation,
        SessionTimes(measurements, request.session_id, is_sampled=request.sampling.temperature >= MIN_TEMPERATURE),
    )
    shape = TreeShape(
        min(options.max_num_nodes or config.max_num_nodes, max_num_nodes),
        options.max_depth or config.max_depth,
        options.beam_width or config.beam_width,
    )
    if options.disabled or shape.max_num_nodes == 0:
        return StaticTreePolicy(_NO_TREE, times)
    if not is_adaptive(options, config):
        return StaticTreePolicy(shape, times)
    return AdaptiveTreePolicy(
        shape,
        times,
        ssms=options.ssms,
        reads_hidden_states=reads_hidden_states,
        num_prompt_tokens=len(request.prompt_token_ids),
        max_tokens=request.max_tokens,
    )
