"""What an SSM's probabilities mean: corrected by how often what it was so sure of was right. One per router, shared by all sessions.

Asked by the loop before trees are merged, told by the tree policies what the verifier chose. Counted are nodes whose parent was
accepted, verified or not: the verifier's choice there says whether they were right. Counts are kept in bins of the probability told, for
each SSM and depth, greedy and sampled outputs apart; old ones fade. Microseconds for a tree.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specgrove.loop.request import ProposedTree
from specgrove.loop.token_tree import TokenTree
from specgrove.telemetry.metrics import Kind, Metric, Reading

CALIBRATION_ERROR = Metric(
    "specgrove_router_ssm_calibration_error",
    Kind.GAUGE,
    "How far an SSM's probabilities, as corrected before, are from the shares that were right: the mean over bins, weighted by their nodes "
    "(expected calibration error). By depth in the tree.",
    labels=("ssm", "depth"),
)
MAX_DEPTH = 8
"""Deeper nodes are counted with those of this depth."""

# Upper ends of the bins, and the probabilities in their middle.
_EDGES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.55, 0.7, 0.82, 0.92, 0.97)
_CENTRES = tuple((low + high) / 2 for low, high in itertools.pairwise((0.0, *_EDGES, 1.0)))
# What a node counts after the next one of its bin.
_DECAY = 1 - 1 / 1000
# The belief before is worth so many expected hits: of a depth what holds for all depths, of all depths that the SSM is right.
_PRIOR_HITS = 1.0
_MIN_PROB, _MAX_PROB = 1e-4, 0.999
# Fewer nodes of one depth than this say nothing of its error.
_MIN_NUM_NODES = 100


@dataclass(slots=True)
class _Bins:
    """By bin: nodes, those that were right, and the sum of the probabilities told; decayed."""

    nums: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    hits: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    probs: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    factors: list[float | None] = field(default_factory=lambda: [None] * len(_CENTRES))
    """By which probabilities are to be multiplied in the middle of each bin that has nodes."""

    def add(self, prob: float, prior: float, *, is_hit: bool) -> None:
        """``prior`` is the factor where nothing is known."""
        index = bisect(_EDGES, prob)
        self.nums[index] = self.nums[index] * _DECAY + 1
        self.hits[index] = hits = self.hits[index] * _DECAY + is_hit
        self.probs[index] = probs = self.probs[index] * _DECAY + prob
        self.factors[index] = (hits + _PRIOR_HITS * prior) / (probs + _PRIOR_HITS)

    def error(self) -> float | None:
        num_nodes = sum(self.nums)
        if num_nodes < _MIN_NUM_NODES:
            return None
        return sum(abs(hits - probs) for hits, probs in zip(self.hits, self.probs, strict=True)) / num_nodes


def _corrected(prob: float, of_depth: _Bins, of_all: _Bins) -> float:
    """Along a line between the middles of two bins; beyond the last middles in proportion."""
    low = bisect(_CENTRES, prob) - 1
    if low < 0 or low + 1 == len(_CENTRES):
        return prob * _factor(max(low, 0), of_depth, of_all)
    share = (prob - _CENTRES[low]) / (_CENTRES[low + 1] - _CENTRES[low])
    low_prob = _CENTRES[low] * _factor(low, of_depth, of_all)
    high_prob = _CENTRES[low + 1] * _factor(low + 1, of_depth, of_all)
    return low_prob + share * (high_prob - low_prob)


def _factor(index: int, of_depth: _Bins, of_all: _Bins) -> float:
    factor = of_depth.factors[index]
    if factor is None:
        factor = of_all.factors[index]
    return 1.0 if factor is None else factor


class Calibration:
    """Bins by SSM, depth, and whether the output is sampled. Depth 0 has the nodes of all depths."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, bool, int], _Bins] = {}
        self._corrected: dict[tuple[str, int], _Bins] = {}

    def corrected(self, ssm: str, tree: TokenTree, *, is_sampled: bool) -> TokenTree:
        """The tree with the probabilities that its nodes are taken to have."""
        of_all = self._told.get((ssm, is_sampled, 0))
        if of_all is None:
            return tree
        by_depth = [self._told.get((ssm, is_sampled, depth), of_all) for depth in range(MAX_DEPTH + 1)]
        log_probs = [0.0]
        for log_prob, depth in zip(tree.log_probs[1:], tree.depths()[1:], strict=True):
            prob = _corrected(math.exp(log_prob), by_depth[min(depth, MAX_DEPTH)], of_all)
            log_probs.append(math.log(min(max(prob, _MIN_PROB), _MAX_PROB)))
        return TokenTree(tree.token_ids, tree.parents, tuple(log_probs), tree.sources)

    def observe(self, proposed: ProposedTree, token_ids: Sequence[int], *, is_sampled: bool) -> None:
        """``token_ids`` are what the verifier chose from the tree's root on, as far as that is known."""
        tree, ssm = proposed.tree, proposed.ssm
        depth_on_path = {0: 0}
        for node in range(1, tree.num_nodes):
            before = depth_on_path.get(tree.parents[node])
            if before is None or before >= len(token_ids):
                continue
            is_hit = tree.token_ids[node] == token_ids[before]
            if is_hit:
                depth_on_path[node] = before + 1
            if not tree.sources[node]:
                continue  # borrowed
            depth = min(before + 1, MAX_DEPTH)
            told = math.exp(proposed.told_log_probs[node])
            of_all = self._told.setdefault((ssm, is_sampled, 0), _Bins())
            of_depth = self._told.setdefault((ssm, is_sampled, depth), _Bins())
            of_all.add(told, 1.0, is_hit=is_hit)
            of_depth.add(told, _factor(bisect(_EDGES, told), of_all, of_all), is_hit=is_hit)
            self._corrected.setdefault((ssm, depth), _Bins()).add(math.exp(tree.log_probs[node]), 1.0, is_hit=is_hit)

    def errors(self, ssm: str) -> list[float]:
        """The calibration error of each depth from 1 on, up to the first of which too little is known."""
        found = []
        for depth in range(1, MAX_DEPTH + 1):
            bins = self._corrected.get((ssm, depth))
            error = None if bins is None else bins.error()
            if error is None:
                break
            found.append(error)
        return found

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        ssms = {ssm for ssm, _ in list(self._corrected)}
        yield Reading(
            CALIBRATION_ERROR,
            {(ssm, str(depth)): error for ssm in sorted(ssms) for depth, error in enumerate(self.errors(ssm), start=1)},
        )
