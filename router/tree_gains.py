"""What drafted trees promise and bring: how probable their best nodes are, by rank; of one session, or of all that the router served.

Owned by the tree policies and their shared measurements. Probabilities of nodes are calibrated, so the gain of the n-th best node *is* the
probability of its path, and one tree tells of all its ranks at once: nothing has to be accepted for that. What was accepted is held
against what was promised, as one factor, for a session's text may be harder or easier than SSMs think.

Learnt from trees that were verified, and from *probes*, trees that were only compared with what the verifier decided by itself: they
tell the same, for outputs don't depend on trees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from specgrove.config import MAX_NUM_TREE_NODES
from specgrove.loop.output import ProposedTree
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SsmTime

Array = npt.NDArray[np.float64]
_RANKS = np.arange(MAX_NUM_TREE_NODES)

# So many trees of the prior (other sessions; of all: the first guess) weigh as much as what was seen.
_PRIOR_NUM_TREES = 4.0
# SSMs are believed as if so many promised tokens had come true: what is accepted scatters much.
_PRIOR_NUM_TOKENS = 20.0
# Before anything was drafted: a chain of tokens each of which is right so often.
_FIRST_GUESS = 0.6
# Deeper nodes are counted with those of this depth.
_MAX_DEPTH = 16


class TreePromises:
    """What one tree promises: the probabilities of its nodes' paths. Made once for each tree, counted by several."""

    def __init__(self, tree: TokenTree) -> None:
        """``tree`` has its best nodes first."""
        parents, log_probs = tree.parents, tree.log_probs
        depths, path_log_probs, probs = [0] * len(parents), [0.0] * len(parents), []
        self.by_depth = [1.0]
        """The sums of one depth, from the root's on."""
        for node in range(1, len(parents)):
            parent = parents[node]
            depths[node] = depth = depths[parent] + 1
            path_log_probs[node] = log_prob = path_log_probs[parent] + log_probs[node]
            prob = math.exp(log_prob)
            probs.append(prob)
            if depth == len(self.by_depth):
                self.by_depth.append(prob)
            else:
                self.by_depth[depth] += prob
        self.places = np.array([min(depth, _MAX_DEPTH) - 1 for depth in depths[1:]], dtype=np.intp)
        """Of all nodes but the root the depth from 0 on, as ``TreeGains`` counts it; ``ranks`` are from the best node on."""
        self.ranks = _RANKS[: len(probs)]
        self.probs = np.array(probs)
        self.num_tokens = sum(probs)
        """The mean number of nodes that are accepted, if their probabilities are right."""


class TreeGains:
    """Decayed means over trees, by depth (from 1) and rank (from the best node) of their nodes."""

    def __init__(self, decay: float) -> None:
        """``decay``: what a tree counts after the next."""
        self._decay = decay
        self._unfaded = 1.0  # by what all counts are still to be multiplied: most steps tell nothing of drafts
        # Of path probabilities; and in the last row, of trees that might have had so many nodes.
        self._counts = np.zeros((_MAX_DEPTH + 1, MAX_NUM_TREE_NODES))
        self._sums, self._nums = self._counts[:_MAX_DEPTH], self._counts[_MAX_DEPTH]
        self._levels = [0.0] * _MAX_DEPTH  # of trees for which so many levels were drafted
        self._expanded_prob = self._level_prob = 0.0
        self._promised = self._accepted = 0.0

    def add(self, promises: TreePromises, asked_num_nodes: int, num_levels: int) -> None:
        """A tree, for which up to so many nodes were asked for, and so many levels were drafted."""
        self._settle()
        self._counts[:, :asked_num_nodes] *= self._decay
        self._fade(self._decay)
        self._nums[:asked_num_nodes] += 1
        self._levels[:num_levels] = [num + 1 for num in self._levels[:num_levels]]
        self._sums[promises.places, promises.ranks] += promises.probs
        by_depth = promises.by_depth[: num_levels + 1]
        self._expanded_prob += sum(by_depth[:num_levels])
        self._level_prob += sum(by_depth[1:])

    def compare(self, promised: float, num_accepted: int) -> None:
        """The sum of the path probabilities of nodes, and how many of them were accepted."""
        self._promised += promised
        self._accepted += num_accepted

    def fade(self, num_steps: int) -> None:
        """After steps that told nothing of drafts: text changes, so what was seen counts less."""
        factor = self._decay**num_steps
        self._unfaded *= factor
        self._fade(factor)

    def _settle(self) -> None:
        if self._unfaded != 1.0:
            self._counts *= self._unfaded
            self._unfaded = 1.0

    def _fade(self, factor: float) -> None:
        self._levels = [num * factor for num in self._levels]
        self._expanded_prob *= factor
        self._level_prob *= factor
        self._promised *= factor
        self._accepted *= factor

    @property
    def kept_share(self) -> float:
        """Of what SSMs promise, the share that comes true; it may be above 1."""
        return (self._accepted + _PRIOR_NUM_TOKENS) / (self._promised + _PRIOR_NUM_TOKENS)

    def tokens(self, prior: TreeGains, max_num_nodes: int, max_depth: int, optimism: float = 0.0) -> Array:
        """Tokens of a step by the levels and the number of nodes of its tree: the verifier's own, and those accepted.

        ``[depth, max_num_nodes]``: both from 1 on; depth ends at ``max_depth``, or where nothing is known. With ``optimism`` so many
        standard deviations above what was seen. ``prior`` is of all sessions.
        """
        means = self._means(prior._means(_GUESS, max_num_nodes, max_depth), max_num_nodes, max_depth)
        found = means.cumsum(axis=0).cumsum(axis=1)
        share, most = self.kept_share, float(found[-1, -1])
        if optimism:
            # Tokens accepted of a tree scatter about as those of a chain that breaks at random.
            deviation = math.sqrt(most * (1 + most) / (self._levels[0] + _PRIOR_NUM_TREES))
            share *= 1 + optimism * deviation / max(most, 1e-3)
        found *= share
        found += 1
        return found

    def _means(self, prior: Array, max_num_nodes: int, max_depth: int) -> Array:
        self._settle()
        sums, nums = self._sums[:max_depth, :max_num_nodes], self._nums[:max_num_nodes]
        means: Array = (sums + _PRIOR_NUM_TREES * prior[:max_depth, :max_num_nodes]) / (nums + _PRIOR_NUM_TREES)
        return means

    def num_levels(self, max_depth: int) -> Array:
        """Mean number of levels that are drafted, by how many may be: trees end before, where another one would not pay. ``[depth]``."""
        guess = _LEVELS_GUESS[:max_depth]
        shares: Array = (np.array(self._levels[:max_depth]) + _PRIOR_NUM_TREES * guess) / (
            self._levels[0] + _PRIOR_NUM_TREES
        )
        return shares.cumsum()

    def level_hit_rate(self, prior: TreeGains | None = None) -> float:
        """How probable the nodes of a level are, beside those that it is drafted below."""
        rate = _FIRST_GUESS if prior is None else prior.level_hit_rate()
        return (self._level_prob + _PRIOR_NUM_TREES * rate) / (self._expanded_prob + _PRIOR_NUM_TREES)


def num_levels_of(proposed: Sequence[ProposedTree], times: Sequence[SsmTime] = ()) -> int:
    """How many levels were drafted, one after the other; one at least.

    Where SSMs didn't tell they are those of the deepest tree that was proposed.
    """
    if times:
        return max(1, *(time.num_levels for time in times))
    return max(1, *(max(each.tree.depths()) for each in proposed)) if proposed else 1


# A chain, whose levels are all drafted.
_GUESS: Array = np.zeros((_MAX_DEPTH, MAX_NUM_TREE_NODES))
np.fill_diagonal(_GUESS, _FIRST_GUESS ** np.arange(1, _MAX_DEPTH + 1))
_LEVELS_GUESS: Array = np.ones(_MAX_DEPTH)
