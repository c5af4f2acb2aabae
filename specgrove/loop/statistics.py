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
        _count(self.acceptance_histogram, step.accepted_depth, step.num_steps)
        for depth in range(step.drafted_depth):
            _count(self.drafted_by_depth, depth)
        for depth in range(step.accepted_depth):
            _count(self.accepted_by_depth, depth)

    @property
    def mean_acceptance_len(self) -> float:
        """Mean number of tokens per step, the bonus token counted (SpecInfer's "tokens per step")."""
        return self.num_output_tokens / self.num_verify_steps if self.num_verify_steps else 0.0


def _count(histogram: list[int], bucket: int, number: int = 1) -> None:
    histogram.extend([0] * (bucket + 1 - len(histogram)))
    histogram[bucket] += number
