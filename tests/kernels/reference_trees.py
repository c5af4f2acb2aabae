"""Operations on token trees in plain Python: slow, obviously correct, and what the native ones are tested against. Same names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from specgrove.kernels.trees import Arrays


def merge_trees(trees: Sequence[Arrays], max_num_nodes: int) -> tuple[list[int], list[int], list[float], list[int]]:
    """See ``specgrove.kernels.trees``. Paths as dictionary keys instead of indices."""
    own: dict[tuple[int, ...], list[float]] = {}
    borrowed: dict[tuple[int, ...], list[float]] = {}
    sources: dict[tuple[int, ...], int] = {}
    for token_ids, parents, tree_log_probs, tree_sources in trees:
        paths: list[tuple[int, ...]] = []
        for node, token_id in enumerate(token_ids):
            path = (*(paths[parents[node]] if node else ()), token_id)
            paths.append(path)
            (own if tree_sources[node] else borrowed).setdefault(path, []).append(tree_log_probs[node])
            sources[path] = sources.get(path, 0) | tree_sources[node]
    log_probs = {path: min(max(own.get(path) or borrowed[path]), 0.0) for path in sources}
    for parent in sources:
        siblings = [path for path in sources if path[:-1] == parent]
        total = 0.0
        for prob in sorted(math.exp(log_probs[path]) for path in siblings):
            total += prob
        for path in siblings if total > 1 else ():
            log_probs[path] -= math.log(total)

    scores: dict[tuple[int, ...], float] = {}
    for path in sorted(sources, key=len):
        scores[path] = scores[path[:-1]] + log_probs[path] if len(path) > 1 else 0.0
    kept: list[tuple[int, ...]] = []
    rank: dict[tuple[int, ...], int] = {(): -1}
    while len(kept) < min(max_num_nodes, len(sources)):
        reachable = [path for path in sources if path not in rank and path[:-1] in rank]
        best = min(reachable, key=lambda path: (-scores[path], rank[path[:-1]], path[-1]))
        rank[best] = len(kept)
        kept.append(best)
    return (
        [path[-1] for path in kept],
        [rank[path[:-1]] for path in kept],
        [log_probs[path] for path in kept],
        [sources[path] for path in kept],
    )


def ancestor_masks(parents: Sequence[int]) -> bytes:
    """See ``specgrove.kernels.trees``."""
    num_bytes = (len(parents) + 63) // 64 * 8
    masks: list[int] = []
    for node, parent in enumerate(parents):
        masks.append(1 << node | (masks[parent] if parent >= 0 else 0))
    return b"".join(mask.to_bytes(num_bytes, "little") for mask in masks)


def walk_tree(token_ids: Sequence[int], parents: Sequence[int], choices: Sequence[int]) -> list[int]:
    """See ``specgrove.kernels.trees``."""
    accepted: list[int] = []
    node = 0
    while True:
        children = [i for i in range(1, len(token_ids)) if parents[i] == node and token_ids[i] == choices[node]]
        if not children:
            return accepted
        node = children[0]
        accepted.append(node)


def validate_tree(token_ids: Sequence[int], parents: Sequence[int], vocab_size: int, max_num_nodes: int) -> None:
    """Raises ``ValueError`` for what is no tree."""
    if not token_ids or len(token_ids) != len(parents) or len(token_ids) > max_num_nodes:
        raise ValueError("malformed token tree: sizes")
    if any(not 0 <= token_id < vocab_size for token_id in token_ids):
        raise ValueError("malformed token tree: a token id")
    if parents[0] != -1 or any(not 0 <= parent < node for node, parent in enumerate(parents) if node):
        raise ValueError("malformed token tree: a parent")
    edges = list(zip(parents, token_ids, strict=True))
    if len(set(edges)) != len(edges):
        raise ValueError("malformed token tree: two siblings with one token")
