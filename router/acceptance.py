"""How often drafted tokens are accepted, by depth: decayed counts, of one session or of all that the router served.

Owned by the tree policies and their shared measurements. Counted are steps that verified a tree and *probes*: trees that were only compared
with what the verifier decided by itself, which tells the same, for outputs don't depend on trees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# How many observations the prior (other sessions) is worth against a session's own.
PRIOR_WEIGHT = 4.0
# log(miss rate) is taken to grow by this share with each doubling of the candidates at a depth.
_WIDTH_GAIN = 0.37


@dataclass(slots=True)
class DepthCounts:
    """By depth: how often a drafted depth was reached, and missed; ``widths`` sums the width exponents."""

    decay: float
    """What an observation counts after the next."""
    num_trials: list[float] = field(default_factory=list)
    num_misses: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, num_nodes: int, asked_depth: int, accepted_depth: int) -> None:
        """Counts a tree that might have ``asked_depth`` levels: depths up to the first miss were tried."""
        for counts in (self.num_trials, self.num_misses, self.widths):
            counts.extend([0.0] * (asked_depth - len(counts)))
        exponent = width_exponent(num_nodes / asked_depth)
        for depth in range(min(accepted_depth + 1, asked_depth)):
            self.num_trials[depth] = self.num_trials[depth] * self.decay + 1
            self.num_misses[depth] = self.num_misses[depth] * self.decay + (depth == accepted_depth)
            self.widths[depth] = self.widths[depth] * self.decay + exponent

    def fade(self, num_steps: int) -> None:
        """After steps that told nothing of acceptance: text changes, so what was seen counts less."""
        factor = self.decay**num_steps
        for counts in (self.num_trials, self.num_misses, self.widths):
            counts[:] = [count * factor for count in counts]

    def log_misses(
        self, prior: Sequence[float], num_depths: int, optimism: float = 0.0, prior_weight: float = PRIOR_WEIGHT
    ) -> list[float]:
        """By depth: the logarithm of the miss rate of a single candidate, ``prior`` mixed in.

        With ``optimism`` so many standard deviations below what was seen.
        """
        found: list[float] = []
        before = 0.0
        for depth in range(num_depths):
            # Where the prior says nothing, as the depth above.
            before = prior[depth] if depth < len(prior) else before
            num_trials = self.num_trials[depth] if depth < len(self.num_trials) else 0.0
            widths = self.widths[depth] if depth < len(self.widths) else 0.0
            num_misses = self.num_misses[depth] if depth < len(self.num_misses) else 0.0
            weight = num_trials + prior_weight
            exponent = (widths + prior_weight) / weight
            rate = (num_misses + prior_weight * math.exp(before * exponent)) / weight
            before = _log_miss(rate, exponent)
            if optimism:
                rate -= optimism * math.sqrt(rate * (1 - rate) / (weight + 1))
            found.append(_log_miss(rate, exponent) if optimism else before)
        return found


def _log_miss(rate: float, exponent: float) -> float:
    return math.log(min(max(rate, 1e-3), 0.999)) / exponent


def width_exponent(width: float) -> float:
    """The miss rate of ``width`` candidates is that of one candidate to this power."""
    return 1 + _WIDTH_GAIN * math.log2(max(width, 1.0))


def expected_tokens(log_misses: Sequence[float], num_nodes: int) -> float:
    """Tokens of a step with a tree of so many nodes and ``len(log_misses)`` levels: the LLM's own, and one for each depth reached."""
    return _expected_tokens(log_misses, width_exponent(num_nodes / len(log_misses)))


def most_expected_tokens(log_misses: Sequence[float], num_nodes: int) -> float:
    """No shape with so many nodes has more: as if each level had all of them."""
    return _expected_tokens(log_misses[:num_nodes], width_exponent(num_nodes))


def _expected_tokens(log_misses: Sequence[float], exponent: float) -> float:
    num_tokens = reached = 1.0
    for log_miss in log_misses:
        reached *= 1 - math.exp(log_miss * exponent)
        num_tokens += reached
    return num_tokens
