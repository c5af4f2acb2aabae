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

from specgrove.loop.output import ProposedTree
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
_LOG_CENTRES = tuple(map(math.log, _CENTRES))
# What a node counts after the next one of its bin.
_DECAY = 1 - 1 / 1000
# The belief before is worth so many expected hits: of a depth what holds for all depths, of all depths that the SSM is right. With few of
# them the first trees, each of which tells little, had a probability of 0.3 taken for 0.1 or for 0.6.
_PRIOR_HITS = 4.0
_MIN_LOG_PROB, _MAX_LOG_PROB = math.log(1e-4), math.log(0.999)
# A bin's part of a curve is made anew when more than this share of its nodes came since: at first after each node.
_NEW_SHARE = 1 / 16
# Fewer nodes of one depth than this say nothing of its error.
_MIN_NUM_NODES = 100


@dataclass(slots=True)
class _Bins:
    """By bin: nodes, those that were right, and the sum of the probabilities told; decayed."""

    nums: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    hits: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    probs: list[float] = field(default_factory=lambda: [0.0] * len(_CENTRES))
    nums_new: list[int] = field(default_factory=lambda: [0] * len(_CENTRES))
    """Nodes since a bin was due."""

    def add(self, index: int, prob: float, is_hit: bool) -> bool:
        """A node of bin ``index``, which is due where enough has come to it since the last time that it was."""
        self.nums[index] = num = self.nums[index] * _DECAY + 1
        self.hits[index] = self.hits[index] * _DECAY + is_hit
        self.probs[index] = self.probs[index] * _DECAY + prob
        self.nums_new[index] += 1
        if self.nums_new[index] <= _NEW_SHARE * num:
            return False
        self.nums_new[index] = 0
        return True

    def log_factor(self, index: int, log_prior: float) -> float:
        """Logarithm of what probabilities in the bin's middle are to be multiplied by; ``log_prior`` where nothing is known."""
        return math.log((self.hits[index] + _PRIOR_HITS * math.exp(log_prior)) / (self.probs[index] + _PRIOR_HITS))

    def error(self) -> float | None:
        num_nodes = sum(self.nums)
        if num_nodes < _MIN_NUM_NODES:
            return None
        return sum(abs(hits - probs) for hits, probs in zip(self.hits, self.probs, strict=True)) / num_nodes


class _Curve:
    """What a probability told at one depth is taken to be, in logarithms: lines between the bins' middles, beyond the last in proportion.

    Kept as slope and value at 0 of each line, so that asking is cheap; a bin's new factor changes the two lines that meet in its middle.
    """

    def __init__(self, log_factors: Sequence[float]) -> None:
        self.bins = _Bins()
        self.log_factors = [0.0] * len(_CENTRES)
        self.slopes = [1.0] * (len(_CENTRES) + 1)
        self.offsets = [0.0] * (len(_CENTRES) + 1)
        for index, log_factor in enumerate(log_factors):
            self.set_factor(index, log_factor)

    def set_factor(self, index: int, log_factor: float) -> None:
        """Of one bin."""
        self.log_factors[index] = log_factor
        for line in (index, index + 1):
            if 0 < line < len(_CENTRES):
                low, high = _LOG_CENTRES[line - 1], _LOG_CENTRES[line]
                rise = self.log_factors[line] - self.log_factors[line - 1]
                self.slopes[line] = slope = 1 + rise / (high - low)
                self.offsets[line] = low + self.log_factors[line - 1] - slope * low
            else:
                self.offsets[line] = log_factor


class _Curves:
    """Of one SSM, of greedy or of sampled outputs: that of all depths, and those of the depths that were seen."""

    def __init__(self) -> None:
        self._of_all = _Curve([0.0] * len(_CENTRES))
        self.by_depth = [self._of_all] * (MAX_DEPTH + 1)
        """From depth 0 on; that of all depths where one was not seen yet."""

    def observe(self, depth: int, told: float, is_hit: bool) -> None:
        """A node of whose parent the verifier's choice is known."""
        index, of_all, of_depth = bisect(_EDGES, told), self._of_all, self.by_depth[depth]
        if of_depth is of_all:
            of_depth = self.by_depth[depth] = _Curve(of_all.log_factors)
        of_all.bins.add(index, told, is_hit)
        if not of_depth.bins.add(index, told, is_hit):
            return
        log_factor = of_all.bins.log_factor(index, 0.0)
        of_all.set_factor(index, log_factor)
        of_depth.set_factor(index, of_depth.bins.log_factor(index, log_factor))
        for other in self.by_depth:
            if not other.bins.nums[index]:
                other.set_factor(index, log_factor)


class Calibration:
    """Bins by SSM, depth, and whether the output is sampled."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, bool], _Curves] = {}
        self._corrected: dict[str, list[_Bins]] = {}  # by depth, from 0 on

    def corrected(self, ssm: str, tree: TokenTree, *, is_sampled: bool) -> TokenTree:
        """The tree with the probabilities that its nodes are taken to have."""
        curves = self._curves.get((ssm, is_sampled))
        if curves is None:
            return tree
        depths, log_probs = [0], [0.0]
        nodes = zip(tree.parents, tree.log_probs, strict=True)
        next(nodes)
        for parent, told in nodes:
            depth = depths[parent] + 1
            depths.append(depth)
            curve = curves.by_depth[depth if depth < MAX_DEPTH else MAX_DEPTH]
            line = bisect(_LOG_CENTRES, told)
            log_prob = curve.offsets[line] + curve.slopes[line] * told
            if log_prob < _MIN_LOG_PROB:
                log_prob = _MIN_LOG_PROB
            elif log_prob > _MAX_LOG_PROB:
                log_prob = _MAX_LOG_PROB
            log_probs.append(log_prob)
        return TokenTree(tree.token_ids, tree.parents, tuple(log_probs), tree.sources)

    def observe(self, proposed: ProposedTree, token_ids: Sequence[int], *, is_sampled: bool) -> None:
        """``token_ids`` are what the verifier chose from the tree's root on, as far as that is known."""
        tree, ssm = proposed.tree, proposed.ssm
        curves = self._curves.get((ssm, is_sampled))
        if curves is None:
            curves = self._curves[ssm, is_sampled] = _Curves()
        corrected = self._corrected.get(ssm)
        if corrected is None:
            corrected = self._corrected[ssm] = [_Bins() for _ in range(MAX_DEPTH + 1)]
        depth_on_path, num_known = {0: 0}, len(token_ids)
        for node, parent in enumerate(tree.parents):
            if parent not in depth_on_path:
                continue
            before = depth_on_path[parent]
            if before >= num_known:
                continue
            is_hit = tree.token_ids[node] == token_ids[before]
            if is_hit:
                depth_on_path[node] = before + 1
            if not tree.sources[node]:
                continue  # borrowed
            depth = before + 1 if before < MAX_DEPTH else MAX_DEPTH
            curves.observe(depth, math.exp(proposed.told_log_probs[node]), is_hit)
            prob = math.exp(tree.log_probs[node])
            corrected[depth].add(bisect(_EDGES, prob), prob, is_hit)

    def errors(self, ssm: str) -> list[float]:
        """The calibration error of each depth from 1 on, up to the first of which too little is known."""
        found = []
        for bins in self._corrected.get(ssm, ())[1:]:
            error = bins.error()
            if error is None:
                break
            found.append(error)
        return found

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(
            CALIBRATION_ERROR,
            {
                (ssm, str(depth)): error
                for ssm in sorted(self._corrected)
                for depth, error in enumerate(self.errors(ssm), start=1)
            },
        )
