"""Token trees: what drafters propose and the verifier decides on. A value, made by drafters, merged by the loop.

Invariant: flat arrays of equal length, node 0 is the root (the last committed token), ``parents[i] < i``, and the children
of a node hold different tokens. ``validated`` is the gate for trees that come from outside; everything behind it relies on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgrove.kernels.trees import merge_trees as merge_arrays
from specgrove.kernels.trees import validate_tree


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A tree of candidate tokens. All sequences have ``num_nodes`` elements.

    ``log_probs`` are natural logarithms, conditional on the path; the root has 0. ``sources`` are bit sets over the SSMs; a node below the
    root without any is *borrowed*: whose tree it is continues a path that another SSM proposed.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    log_probs: tuple[float, ...]
    sources: tuple[int, ...]

    @classmethod
    def of_root(cls, token_id: int) -> TokenTree:
        """The empty tree below ``token_id``: verifying it is incremental decoding."""
        return cls((token_id,), (-1,), (0.0,), (0,))

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the root counted."""
        return len(self.token_ids)

    def depths(self) -> list[int]:
        """Depth of every node; the root has 0."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths

    def path_log_probs(self) -> list[float]:
        """Of every node, the logarithm of the probability that it is accepted: its own one and those of its ancestors, summed."""
        sums = [0.0]
        for parent, log_prob in zip(self.parents[1:], self.log_probs[1:], strict=True):
            sums.append(sums[parent] + log_prob)
        return sums

    def validated(self, *, vocab_size: int, max_num_nodes: int) -> TokenTree:
        """This tree, or ``ValueError`` that says what is malformed."""
        lengths = {len(self.parents), len(self.log_probs), len(self.sources)}
        if lengths != {self.num_nodes}:
            raise ValueError(
                f"a token tree's arrays must have one length, got {self.num_nodes} token ids, {len(self.parents)} parents, "
                f"{len(self.log_probs)} log_probs, {len(self.sources)} sources"
            )
        if max(self.log_probs, default=0.0) > 1e-6 or math.isnan(sum(self.log_probs)):
            raise ValueError("a token tree's log_probs must be <= 0 and not NaN")
        validate_tree(self.token_ids, self.parents, vocab_size, max_num_nodes)
        return self

    def of_tokens(self, is_known: Callable[[int], bool]) -> TokenTree:
        """The tree without the nodes whose token is not known, and without what hangs below those. The root stays."""
        known = {0}
        for node in range(1, self.num_nodes):
            if self.parents[node] in known and is_known(self.token_ids[node]):
                known.add(node)
        return self if len(known) == self.num_nodes else self.of_nodes(sorted(known))

    def of_nodes(self, nodes: Sequence[int]) -> TokenTree:
        """The tree of some nodes, rising: the root is one of them, and so is the parent of each other one."""
        place = {node: index for index, node in enumerate(nodes)}
        return TokenTree(
            tuple(self.token_ids[node] for node in nodes),
            (-1, *(place[self.parents[node]] for node in nodes[1:])),
            tuple(self.log_probs[node] for node in nodes),
            tuple(self.sources[node] for node in nodes),
        )

    def below(self, token_ids: Sequence[int]) -> TokenTree | None:
        """What hangs below the node that these tokens lead to, which becomes the root; ``None`` where there is no such node."""
        children = {
            (parent, token_id): node
            for node, (parent, token_id) in enumerate(zip(self.parents, self.token_ids, strict=True))
        }
        root = 0
        for token_id in token_ids:
            found = children.get((root, token_id))
            if found is None:
                return None
            root = found
        kept = {root}
        nodes = [root]
        for node in range(root + 1, self.num_nodes):
            if self.parents[node] in kept:
                kept.add(node)
                nodes.append(node)
        place = {node: index for index, node in enumerate(nodes)}
        return TokenTree(
            tuple(self.token_ids[node] for node in nodes),
            (-1, *(place[self.parents[node]] for node in nodes[1:])),
            (0.0, *(self.log_probs[node] for node in nodes[1:])),
            (0, *(self.sources[node] for node in nodes[1:])),
        )

    def within(self, max_depth: int, min_path_prob: float) -> TokenTree:
        """The tree down to a depth, of the nodes whose path is accepted with at least this probability."""
        depths, sums = self.depths(), self.path_log_probs()
        least = math.log(min_path_prob) if min_path_prob > 0 else -math.inf
        kept = {0}
        for node in range(1, self.num_nodes):
            if self.parents[node] in kept and depths[node] <= max_depth and sums[node] >= least:
                kept.add(node)
        return self if len(kept) == self.num_nodes else self.of_nodes(sorted(kept))

    def with_source(self, source: int) -> TokenTree:
        """The same tree as that of SSM number ``source``: its nodes with sources are drafted by that SSM alone.

        Where there are none all of them are.
        """
        own = 1 << source
        if any(self.sources):
            sources = (0, *(own if sources else 0 for sources in self.sources[1:]))
        else:
            sources = (0, *(own,) * (self.num_nodes - 1))
        return TokenTree(self.token_ids, self.parents, self.log_probs, sources)


def merge_trees(trees: Sequence[TokenTree], max_num_nodes: int) -> TokenTree:
    """Trees with the same root merged by prefix: equal paths become one node that remembers all its SSMs.

    See ``specgrove.kernels.trees.merge_trees``. At most ``max_num_nodes`` nodes (root counted) are kept, best first.
    """
    token_ids, parents, log_probs, sources = merge_arrays(
        [(tree.token_ids, tree.parents, tree.log_probs, tree.sources) for tree in trees], max_num_nodes
    )
    return TokenTree(tuple(token_ids), tuple(parents), tuple(log_probs), tuple(sources))
