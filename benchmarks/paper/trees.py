"""Trees of the paper's shape, ⟨1,1,5,1,1,1,1,1⟩, grown below many places of one output at a time. A narrower tree is a part of it, so one
recording serves every width.

Nodes stand level by level: the root, one node each at depths 1 and 2, then five at each of depths 3 to 8, the fifth below the fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.paper.models import Nodes, Sequenced

MAX_WIDTH, DEPTH, _WIDENS_AT = 5, 8, 3
PARENTS = (-1, 0, 1, *([2] * MAX_WIDTH), *range(_WIDENS_AT, _WIDENS_AT + MAX_WIDTH * (DEPTH - _WIDENS_AT)))
NUM_NODES = len(PARENTS)
NUM_INNER_NODES = NUM_NODES - MAX_WIDTH
_LEVELS = ((0, 1), (1, 2), (2, 3), *((i, i + MAX_WIDTH) for i in range(_WIDENS_AT, NUM_INNER_NODES, MAX_WIDTH)))

Pick = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]
"""``(draft_log_probs [num_rows, vocab_size], positions, n)`` to int64 ``[num_rows, n]``: candidates for each position, best first."""


def nodes_of_width(width: int) -> list[int]:
    """The nodes of the narrower tree, in order."""
    return [node for node in range(NUM_NODES) if node < _WIDENS_AT or (node - _WIDENS_AT) % MAX_WIDTH < width]


def parents_of_width(width: int) -> list[int]:
    """Parents of ``nodes_of_width``, counted among these."""
    nodes = nodes_of_width(width)
    place = {node: index for index, node in enumerate(nodes)} | {-1: -1}
    return [place[PARENTS[node]] for node in nodes]


def depth_of(node: int) -> int:
    """Of the root 0."""
    return node if node < _WIDENS_AT else _WIDENS_AT + (node - _WIDENS_AT) // MAX_WIDTH


def grow(
    ssm: Sequenced,
    token_ids: Sequence[int],
    lengths: Sequence[int],
    log_probs_of: Callable[[torch.Tensor], torch.Tensor],
    pick: Pick,
    *,
    keeps_log_probs: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Trees that follow the first ``lengths[i]`` of ``token_ids``, which the SSM has read. ``log_probs_of``: the temperature.

    Tokens int64 ``[num_trees, NUM_NODES]``; the five candidates that each root has ``[num_trees, 5]``, of which the tree takes the first;
    and where kept the draft's log-probabilities ``[num_trees, NUM_INNER_NODES, vocab_size]``.
    """  # fmt: skip
    tokens = torch.zeros((len(lengths), NUM_NODES), dtype=torch.int64)
    tokens[:, 0] = torch.tensor([token_ids[length - 1] for length in lengths])
    candidates = torch.zeros((len(lengths), MAX_WIDTH), dtype=torch.int64)
    kept = []
    places = [length - 1 for length in lengths]
    for start, end in _LEVELS:
        trees = [Nodes(row[:end], PARENTS[:end], start, NUM_NODES) for row in tokens.tolist()]
        log_probs = log_probs_of(ssm.below(places, trees))
        if keeps_log_probs:
            kept.append(log_probs.view(len(lengths), end - start, -1))
        positions = [length + depth_of(start) for length in lengths for _ in range(start, end)]
        num_children = MAX_WIDTH if start in (0, _WIDENS_AT - 1) else 1
        children = pick(log_probs, positions, num_children).view(len(lengths), end - start, num_children)
        if start == 0:
            candidates, children = children[:, 0], children[:, :, :1]
        tokens[:, end : end + children.shape[1] * children.shape[2]] = children.flatten(1)
    return tokens, candidates, torch.cat(kept, dim=1) if kept else None


def drawn(generator: torch.Generator) -> Pick:
    """Independent drawings from the draft, as multi-step sampling needs them: equal ones may come."""

    def pick(log_probs: torch.Tensor, positions: Sequence[int], num: int) -> torch.Tensor:
        return torch.multinomial(log_probs.exp(), num, replacement=True, generator=generator)

    return pick


def ranked(log_probs: torch.Tensor, positions: Sequence[int], num: int) -> torch.Tensor:
    """The draft's likeliest tokens."""
    return log_probs.topk(num, dim=-1).indices


def ranked_with_noise(noise_of: Callable[[int], torch.Tensor], draft_weight: float) -> Pick:
    """The best by ``draft_weight * draft_log_probs + noise``: the verifier's own noise, which makes its choice likely to be among them."""

    def pick(log_probs: torch.Tensor, positions: Sequence[int], num: int) -> torch.Tensor:
        noise = torch.stack([noise_of(position) for position in positions])
        return (draft_weight * log_probs + noise).topk(num, dim=-1).indices

    return pick
