"""Token-tree operations over plain lists: native, and free of torch, because the router merges trees.

``specgrove.loop.token_tree.TokenTree`` is the value they work on; ``tests/kernels/reference_trees.py`` has each of them in plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.kernels import _native

Arrays = tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]]
"""Token ids, parents, log-probabilities, source bit sets: one element per node each."""


def merge_trees(trees: Sequence[Arrays], max_num_nodes: int) -> tuple[list[int], list[int], list[float], list[int]]:
    """Merges trees with the same root by prefix: sources are united, the largest log-probability of a node stays.

    One without sources, root aside, is *borrowed*: its log-probability counts only where no other tree has the node. Siblings whose
    probabilities sum to more than 1 are scaled to sum to 1. Of more than ``max_num_nodes`` nodes (root counted) the best by cumulative
    log-probability are kept. They come best first, whatever the order of the trees: of equal ones first that whose parent comes first, then
    the lower token id. Raises ``ValueError`` when roots differ or a parent stands after its child.
    """
    return _native.merge_trees(trees, max_num_nodes)


def ancestor_masks(parents: Sequence[int]) -> bytes:
    """Little-endian uint64 words ``[num_nodes, ceil(num_nodes / 64)]``: bit j of row i is set where j is i or its ancestor.

    Parents of -1 mark roots; there may be several.
    """
    return _native.ancestor_masks(parents)


def walk_tree(token_ids: Sequence[int], parents: Sequence[int], choices: Sequence[int]) -> list[int]:
    """The nodes accepted, root left out: from the root on to the child that holds ``choices[node]``, while there is one."""
    return _native.walk_tree(token_ids, parents, choices)


def validate_tree(token_ids: Sequence[int], parents: Sequence[int], vocab_size: int, max_num_nodes: int) -> None:
    """Raises ``ValueError`` that says what is malformed: sizes, a token id, a parent, or two siblings with one token."""
    _native.validate_tree(token_ids, parents, vocab_size, max_num_nodes)
