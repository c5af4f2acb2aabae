"""What speculation brought, over all requests: trees, their tokens, and those accepted; and the time that it took, beside what the same
tokens take without trees. Counted by the servicer from the loop's steps, told to metrics and ``GetStats``.

The time without trees is no guess of its own: it is what the tree policy weighs drafting against, learnt from the replica's real passes
(``Measurements.usual_ms``). Invariant: a tree that was drafted and not verified counts nowhere here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from specgrove.loop.output import Step
from specgrove.telemetry.metrics import Kind, Metric, Reading

STEPS = Metric(
    "specgrove_router_verify_steps_total",
    Kind.COUNTER,
    "Steps, with and without a tree. Output tokens divided by them are the mean tokens per step.",
)
DRAFTS = Metric(
    "specgrove_router_spec_decode_drafts_total",
    Kind.COUNTER,
    "Steps that verified a token tree.",
    vllm_name="vllm:spec_decode_num_drafts_total",
)
DRAFTED = Metric(
    "specgrove_router_spec_decode_draft_tokens_total",
    Kind.COUNTER,
    "Nodes of the trees that were verified, roots not counted. Of a tree's nodes at one depth one can be accepted at most.",
    vllm_name="vllm:spec_decode_num_draft_tokens_total",
)
ACCEPTED = Metric(
    "specgrove_router_spec_decode_accepted_tokens_total",
    Kind.COUNTER,
    "Drafted tokens that were accepted. 1 + accepted / drafts is the mean acceptance length.",
    vllm_name="vllm:spec_decode_num_accepted_tokens_total",
)
ACCEPTED_BY_POSITION = Metric(
    "specgrove_router_spec_decode_accepted_tokens_per_pos_total",
    Kind.COUNTER,
    "Drafted tokens that were accepted, by their depth in the tree less one.",
    labels=("position",),
    vllm_name="vllm:spec_decode_num_accepted_tokens_per_pos_total",
)
DRAFTS_BY_SSM = Metric(
    "specgrove_router_ssm_drafts_total",
    Kind.COUNTER,
    "Verified trees that an SSM had a part in.",
    labels=("ssm",),
)
DRAFTED_BY_SSM = Metric(
    "specgrove_router_ssm_draft_tokens_total",
    Kind.COUNTER,
    "Nodes of verified trees that an SSM drafted. One that several drafted counts for each.",
    labels=("ssm",),
)
ACCEPTED_BY_SSM = Metric(
    "specgrove_router_ssm_accepted_tokens_total",
    Kind.COUNTER,
    "Accepted tokens that an SSM drafted. One that several drafted counts for each.",
    labels=("ssm",),
)
SPECULATIVE_TIME = Metric(
    "specgrove_router_speculative_seconds_total",
    Kind.COUNTER,
    "Time that steps with a tree took, drafting and waiting included, summed over requests.",
)
INCREMENTAL_TIME = Metric(
    "specgrove_router_incremental_equivalent_seconds_total",
    Kind.COUNTER,
    "Time that the tokens of the same steps take without trees, by the times of passes measured on their replica with as many sessions. "
    "Divided by the one above it is the speed-up; less the one above, the time saved.",
)
AHEAD = Metric(
    "specgrove_router_drafts_ahead_total",
    Kind.COUNTER,
    "Trees wanted of SSM services that draft ahead: hit, where the tree had been drafted while the one before was verified; miss, where it "
    "was waited for. Their share of hits is the hit rate.",
    labels=("outcome",),
)
REPLAYS = Metric(
    "specgrove_router_replays_total",
    Kind.COUNTER,
    "Times that an LLM service had to be sent a request's committed tokens anew: it lost the session, or was lost itself.",
)


class SpeculationCounts:
    """One per router."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_drafts = 0
        self.num_drafted = 0
        self.num_accepted = 0
        self.num_replays = 0
        self.accepted_by_position: Counter[int] = Counter()
        self.drafts_by_ssm: Counter[str] = Counter()
        self.drafted_by_ssm: Counter[str] = Counter()
        self.accepted_by_ssm: Counter[str] = Counter()
        self.num_ahead = {True: 0, False: 0}
        self.speculative_s = 0.0
        self.incremental_s = 0.0

    def add(self, step: Step, usual_ms: float | None) -> None:
        """A step as the client gets it. ``usual_ms`` is what a token takes without trees; None where that is not known."""
        self.num_steps += step.num_steps
        self.num_replays += step.num_replays
        if step.was_ahead is not None:
            self.num_ahead[step.was_ahead] += 1
        if step.num_drafted_nodes == 0:
            return
        self.num_drafts += 1
        self.num_drafted += step.num_drafted_nodes
        self.num_accepted += step.accepted_depth
        for position in range(step.accepted_depth):
            self.accepted_by_position[position] += 1
        for ssm, num_nodes in step.drafted_by_ssm:
            self.drafts_by_ssm[ssm] += 1
            self.drafted_by_ssm[ssm] += num_nodes
        for token in step.tokens:
            for ssm in token.drafted_by:
                self.accepted_by_ssm[ssm] += 1
        if usual_ms is not None:
            self.speculative_s += step.wall_ms / 1e3
            self.incremental_s += len(step.tokens) * usual_ms / 1e3

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(STEPS, self.num_steps)
        yield Reading(DRAFTS, self.num_drafts)
        yield Reading(DRAFTED, self.num_drafted)
        yield Reading(ACCEPTED, self.num_accepted)
        yield Reading(ACCEPTED_BY_POSITION, _labelled(self.accepted_by_position))
        yield Reading(DRAFTS_BY_SSM, _labelled(self.drafts_by_ssm))
        yield Reading(DRAFTED_BY_SSM, _labelled(self.drafted_by_ssm))
        yield Reading(ACCEPTED_BY_SSM, _labelled(self.accepted_by_ssm))
        yield Reading(SPECULATIVE_TIME, self.speculative_s)
        yield Reading(INCREMENTAL_TIME, self.incremental_s)
        yield Reading(AHEAD, {("hit",): self.num_ahead[True], ("miss",): self.num_ahead[False]})
        yield Reading(REPLAYS, self.num_replays)


def _labelled(counts: Counter[int] | Counter[str]) -> dict[tuple[str, ...], float]:
    return {(str(label),): num for label, num in list(counts.items())}
