"""A token tree while it grows: which nodes to expand next, and which to answer with in the end. Pure Python.

Used by ``NeuralSsm``, level by level. Invariant: a node's cumulative log-probability is no larger than its parent's, so the
best nodes by it always form a tree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import TreeShape

ROOT = -1
"""Parent of the nodes that follow the last committed token."""


@dataclass(frozen=True, slots=True)
class Beam:
    """Dynamic trees (as in EAGLE-2, arXiv 2406.16858): the ``width`` best nodes of a level are expanded ``width`` ways."""

    width: int = 3

    def num_children(self, depth: int, shape: TreeShape) -> int:
        """Candidates looked at below each expanded node; ``depth`` is the children's, from 1."""
        return shape.beam_width or self.width

    def num_expanded(self, depth: int, shape: TreeShape) -> int | None:
        """Nodes of this depth that are expanded at most."""
        return shape.beam_width or self.width


@dataclass(frozen=True, slots=True)
class Expansion:
    """SpecInfer's static expansion <k1, k2, ...>: every node of depth d - 1 gets k_d children (arXiv 2305.09781, section 3)."""

    counts: tuple[int, ...] = (1, 1, 3, 1, 1)

    def num_children(self, depth: int, shape: TreeShape) -> int:
        """Children of each node; 0 ends the tree."""
        return self.counts[depth - 1] if depth <= len(self.counts) else 0

    def num_expanded(self, depth: int, shape: TreeShape) -> int | None:
        """All of them."""
        return None


def best_nodes(scores: Sequence[float], shape: TreeShape) -> list[int]:
    """Which of some nodes to propose, rising, by their cumulative log-probabilities; the root is not among them."""
    hopeful: Iterable[int] = range(len(scores))
    if shape.prices is not None and shape.prices.min_node_prob > 0:
        worst = math.log(shape.prices.min_node_prob)
        hopeful = [node for node in hopeful if scores[node] >= worst]
    return sorted(sorted(hopeful, key=lambda node: (-scores[node], node))[: shape.max_num_nodes])


@dataclass(slots=True)
class DraftTree:
    """Nodes in order of their making; the committed root is not among them."""

    shape: TreeShape
    rule: Beam | Expansion
    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # cumulative log-probabilities
    depth: int = 0

    def num_children(self) -> int:
        """How many children each node of the next level gets; 0 when the tree is complete."""
        if self.shape.max_num_nodes <= 0 or self.depth >= self.shape.max_depth:
            return 0
        return self.rule.num_children(self.depth + 1, self.shape)

    def grow(self, expanded: Sequence[int], children: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
        """Adds a level: (token id, log-probability) pairs below each expanded node. Returns the nodes to expand next."""
        self.depth += 1
        level = range(len(self.token_ids), len(self.token_ids) + sum(map(len, children)))
        for parent, pairs in zip(expanded, children, strict=True):
            score = self.scores[parent] if parent != ROOT else 0.0
            for token_id, log_prob in pairs:
                self.token_ids.append(token_id)
                self.parents.append(parent)
                self.log_probs.append(log_prob)
                self.scores.append(score + log_prob)
        if not self.num_children():
            return []
        # Below a node that is no better than the last of those kept, nothing can be kept.
        worst_kept = self._worst_kept()
        hopeful = [node for node in level if worst_kept is None or self.scores[node] > worst_kept]
        hopeful.sort(key=lambda node: -self.scores[node])
        expanded_next = sorted(hopeful[: self.rule.num_expanded(self.depth, self.shape)])
        prices = self.shape.prices
        # A level holds the right token at most as often as one of the nodes above it is right.
        if prices is not None and sum(math.exp(self.scores[node]) for node in expanded_next) < prices.min_level_prob:
            return []
        return expanded_next

    def _worst_kept(self) -> float | None:
        if len(self.scores) < self.shape.max_num_nodes:
            return None
        return sorted(self.scores, reverse=True)[self.shape.max_num_nodes - 1]

    def best(self, root_token_id: int) -> TokenTree:
        """The best ``max_num_nodes`` nodes below the root, of those that are worth their price."""
        kept = best_nodes(self.scores, self.shape)
        place = {ROOT: 0} | {node: index for index, node in enumerate(kept, start=1)}
        return TokenTree(
            token_ids=(root_token_id, *(self.token_ids[node] for node in kept)),
            parents=(-1, *(place[self.parents[node]] for node in kept)),
            log_probs=(0.0, *(self.log_probs[node] for node in kept)),
            sources=(0,) * (len(kept) + 1),
        )
