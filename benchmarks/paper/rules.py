"""Rules that accept drafted tokens, as probabilities: given the two models' distributions at the nodes of a tree, how many tokens of it
are accepted. Offline twins of what SpecInfer compares (arXiv 2305.09781, section 4.3); only the walk over one choice is served.

*Multi-step*: try the drafted tokens one after the other, each with probability ``target / draft``; after a refusal the target becomes
what the draft lacks of it. *Naive*: draw the target's token, go on where it was drafted. Both leave the target's distribution as it
is, the first only if the tokens were drawn from the draft independently. *Ours* is naive sampling whose one draw is fixed by (seed,
position), so it is right for any tree, and which tokens to draft is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Probs = npt.NDArray[np.float64]
"""``[num_tokens]``, of sum 1: of a small vocabulary, or of the likeliest tokens and the rest as one more."""
Rule = Callable[[Probs, Probs, Sequence[int]], dict[int, float]]
"""``(target_probs, draft_probs, drafted tokens in the order of their drawing)`` to the probability that each is emitted and accepted."""


def multi_step(target_probs: Probs, draft_probs: Probs, drafted: Sequence[int]) -> dict[int, float]:
    """SpecInfer's multi-step speculative sampling."""
    accepted, _ = multi_step_with_rest(target_probs, draft_probs, drafted)
    return accepted


def multi_step_with_rest(
    target_probs: Probs, draft_probs: Probs, drafted: Sequence[int]
) -> tuple[dict[int, float], Probs]:
    """The same, and with which probability each token of the vocabulary is emitted after all drafted ones were refused."""
    accepted: dict[int, float] = {}
    rest, tried = target_probs, 1.0  # the target after the refusals so far, and their probability
    for token in drafted:
        ratio = 1.0 if draft_probs[token] <= 0 else min(1.0, rest[token] / draft_probs[token])
        accepted[token] = accepted.get(token, 0.0) + tried * ratio
        tried *= 1 - ratio
        lacking = np.maximum(rest - draft_probs, 0.0)
        if tried <= 0 or lacking.sum() <= 0:  # equal distributions: nothing is ever refused
            return accepted, np.zeros_like(rest)
        rest = lacking / lacking.sum()
    return accepted, tried * rest


def naive(target_probs: Probs, draft_probs: Probs, drafted: Sequence[int]) -> dict[int, float]:
    """Sampling from the target alone."""
    return {token: float(target_probs[token]) for token in set(drafted)}


@dataclass(frozen=True, slots=True)
class Tree:
    """A drafted tree with both models' distributions at its inner nodes. Node 0 is the last committed token; parents come first.

    Equal siblings are drawings of one token: they are one node to the rules, with the children of both.
    """

    tokens: Sequence[int]
    parents: Sequence[int]
    target_probs: Sequence[Probs]
    """By node; of leaves it isn't read."""
    draft_probs: Sequence[Probs]


def num_accepted_probs(tree: Tree, rule: Rule) -> Probs:
    """``[depth + 1]``: the probability that just 0, 1, ... tokens of the tree are accepted."""
    children: list[list[int]] = [[] for _ in tree.tokens]
    for node, parent in enumerate(tree.parents):
        if node:
            children[parent].append(node)
    found: list[float] = []

    def walk(group: Sequence[int], depth: int, reached: float) -> None:
        if len(found) == depth:
            found.append(0.0)
        drawn = [child for node in group for child in children[node]]
        stays = 1.0
        if drawn and reached > 0:
            first = group[0]
            by_token = rule(tree.target_probs[first], tree.draft_probs[first], [tree.tokens[child] for child in drawn])
            for token, accepted in by_token.items():
                stays -= accepted
                walk([child for child in drawn if tree.tokens[child] == token], depth + 1, reached * accepted)
        found[depth] += reached * max(stays, 0.0)

    walk([0], 0, 1.0)
    return np.array(found)


def num_followed(tokens: Sequence[int], parents: Sequence[int], output: Sequence[int]) -> int:
    """Ours: how many tokens of a tree are accepted where ``output`` is what the verifier chooses, one position after the other."""
    children: dict[tuple[int, int], list[int]] = {}
    for node in range(1, len(tokens)):
        children.setdefault((parents[node], tokens[node]), []).append(node)
    group = [0]
    for depth, token in enumerate(output):
        group = [child for node in group for child in children.get((node, token), ())]
        if not group:
            return depth
    return len(output)


def expected_num_steps(by_position: Sequence[Probs]) -> float:
    """Steps that a decoding loop takes for an output. ``by_position[i][n]``: probability that a tree after ``i`` of its tokens has ``n``
    accepted. A step emits one token more than that, so a loop stands at ``i`` with the probability that some step ended there.
    """
    visits = np.zeros(len(by_position))
    visits[0] = 1.0
    for position, probs in enumerate(by_position):
        for num_accepted, prob in enumerate(probs):
            if (after := position + num_accepted + 1) < len(visits):
                visits[after] += visits[position] * prob
    return float(visits.sum())
