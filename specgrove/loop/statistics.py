"""What a request's steps were, summed up. Used by the router, which tells it as ``Usage``, and by tests of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from specgrove.loop.output import Step


@dataclass(slots=True)
class GenerationStatistics:
    """Sums over a request's steps. Owned by whoever consumes them."""

    num_output_tokens: int = 0
    num_verify_steps: int = 0
    num_drafted_nodes: int = 0
    num_replays: int = 0
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    num_cached_tokens: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)
    drafted_by_depth: list[int] = field(default_factory=list)
    accepted_by_depth: list[int] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Counts a step."""
        # A replay may find more: what was computed for this very request.
        num_cached_tokens = step.num_cached_tokens if self.num_verify_steps == 0 else 0
        self.num_output_tokens += len(step.tokens)
        self.num_verify_steps += step.num_steps
        self.num_drafted_nodes += step.num_drafted_nodes
        self.num_replays += step.num_replays
        self.draft_ms += step.draft_ms
        self.verify_ms += step.verify_ms
        self.num_cached_tokens += num_cached_tokens
        _make_room(self.acceptance_histogram, step.accepted_depth + 1)
        self.acceptance_histogram[step.accepted_depth] += step.num_steps
        _count_levels(self.drafted_by_depth, step.drafted_depth)
        _count_levels(self.accepted_by_depth, step.accepted_depth)

    @property
    def mean_acceptance_len(self) -> float:
        """Mean number of tokens per step, the bonus token counted (SpecInfer's "tokens per step")."""
        return self.num_output_tokens / self.num_verify_steps if self.num_verify_steps else 0.0


def _count_levels(histogram: list[int], num_levels: int) -> None:
    _make_room(histogram, num_levels)
    for depth in range(num_levels):
        histogram[depth] += 1


def _make_room(histogram: list[int], num_buckets: int) -> None:
    histogram.extend([0] * (num_buckets - len(histogram)))
