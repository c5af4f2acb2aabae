"""Lookup's continuations below the leaves of other SSMs' trees: where a path ends in words that occurred before, what followed them there.

Asked by the pool when all of a draft's trees are there. A neural SSM finds the way into a passage that is repeated, lookup goes on
with it for no time. Invariant: what is grafted depends on the trees and the session's text alone, not on the order in which the trees
were ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import DraftedTree, TreeShape
from ssm_service.lookup import LookupSsm

# Leaves that are looked up: the most probable ones.
_MAX_NUM_LEAVES = 3


@dataclass(frozen=True, slots=True, order=True)
class _Leaf:
    """Below the root; sorted best first, of equally probable ones by their tokens."""

    cost: float  # minus the logarithm of the path's probability
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


def grafted(
    trees: Sequence[DraftedTree],
    lookup: LookupSsm,
    session_id: str,
    token_ids: list[int],
    shape: TreeShape,
    sampling: DraftSampling | None,
) -> DraftedTree | None:
    """Lookup's own tree with continuations of the others' leaves, whose paths are borrowed; ``None`` where there is nothing to graft."""
    grafts = []
    for leaf in _best_leaves([drafted.tree for drafted in trees if drafted.ssm != lookup.name]):
        max_len = shape.max_depth - len(leaf.token_ids)
        found = lookup.continuation(session_id, token_ids, leaf.token_ids, max_len, sampling) if max_len > 0 else None
        if found is not None:
            grafts.append((leaf, *found))
    if not grafts:
        return None
    tree = _Growing(next((d.tree for d in trees if d.ssm == lookup.name), TokenTree.of_root(token_ids[-1])))
    for leaf, continuation, log_probs in grafts:
        below = tree.add(0, leaf.token_ids, leaf.log_probs, is_own=False)
        tree.add(below, continuation, log_probs, is_own=True)
    return DraftedTree(lookup.name, tree.tree())


def _best_leaves(trees: Sequence[TokenTree]) -> list[_Leaf]:
    leaves = set()
    for tree in trees:
        parents, path_log_probs = set(tree.parents), tree.path_log_probs()
        for node in range(1, tree.num_nodes):
            if node not in parents:
                path = _path(tree, node)
                leaves.add(
                    _Leaf(
                        -path_log_probs[node],
                        tuple(tree.token_ids[place] for place in path),
                        tuple(tree.log_probs[place] for place in path),
                    )
                )
    return sorted(leaves)[:_MAX_NUM_LEAVES]


def _path(tree: TokenTree, node: int) -> list[int]:
    path = []
    while node > 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


class _Growing:
    """Lookup's tree. Its own nodes have a source, borrowed ones none."""

    def __init__(self, own: TokenTree) -> None:
        self._token_ids, self._parents = list(own.token_ids), list(own.parents)
        self._log_probs = list(own.log_probs)
        self._sources = [0, *[1] * (own.num_nodes - 1)]
        nodes = enumerate(zip(own.parents, own.token_ids, strict=True))
        self._children = {place: node for node, place in nodes}

    def add(self, node: int, token_ids: Sequence[int], log_probs: Sequence[float], *, is_own: bool) -> int:
        """A path below a node; returns its end. Nodes that are there stay as they are, but for borrowed ones that are now its own."""
        for token_id, log_prob in zip(token_ids, log_probs, strict=True):
            child = self._children.get((node, token_id))
            if child is None:
                child = self._children[node, token_id] = len(self._token_ids)
                self._token_ids.append(token_id)
                self._parents.append(node)
                self._log_probs.append(log_prob)
                self._sources.append(int(is_own))
            elif is_own and not self._sources[child]:
                self._log_probs[child], self._sources[child] = log_prob, 1
            node = child
        return node

    def tree(self) -> TokenTree:
        """As it is now."""
        return TokenTree(tuple(self._token_ids), tuple(self._parents), tuple(self._log_probs), tuple(self._sources))
