"""What one or two simulated SSMs draft, and what the verifier chooses along it. Used by ``simulated_speed``; trees grow as real ones do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specgrove.loop.output import ProposedTree
from specgrove.loop.token_tree import TokenTree, merge_trees
from specgrove.loop.works import SsmTime, TreeShape
from ssm_service.draft_tree import ROOT, Beam, DraftTree
from tests.router.simulated_text import candidate_rates

if TYPE_CHECKING:
    from tests.router.simulated_speed import Suite

NO_CANDIDATE = 99
# What another SSM proposes wrongly.
_WRONG = 1000


@dataclass
class Another:
    """A second SSM, which guesses right or wrong by itself. Those of one service draft one after the other."""

    hit_rate: float
    draft_ms: float
    """Of a level."""
    name: str = "another"


@dataclass(frozen=True)
class Drafted:
    """What one draft comes to. ``choices`` are the tokens that the verifier would choose from the root on, to the first wrong one."""

    tree: TokenTree
    proposed: tuple[ProposedTree, ...]
    choices: tuple[int, ...]
    times: tuple[SsmTime, ...]
    ssms: tuple[str, ...] = ("ssm",)
    """Bit i of a node's sources is the i-th one."""

    @property
    def draft_ms(self) -> float:
        """One SSM after the other."""
        return sum(time.ms for time in self.times)

    def accepted(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """Which of the nodes, rising, are on the verifier's path; a node whose parent is not among them can't be."""
        path, parent = [], 0
        for token_id in self.choices:
            child = next(
                (n for n in nodes if self.tree.parents[n] == parent and self.tree.token_ids[n] == token_id), None
            )
            if child is None:
                break
            path.append(child)
            parent = child
        return tuple(path)


def draft(suite: Suite, shape: TreeShape, ssms: tuple[str, ...]) -> Drafted:
    names = [name for name in suite.ssms if not ssms or name in ssms]
    trees, times = [], []
    choices: tuple[int, ...] = (NO_CANDIDATE,)
    if "ssm" in names:
        growing, choices = _grown(suite, shape)
        trees.append(("ssm", growing.best(0)))
        times.append(SsmTime("ssm", suite.draft_ms * max(growing.depth, 1), growing.depth))
    if suite.another is not None and suite.another.name in names:
        choices = (*choices, *range(NO_CANDIDATE + 1, NO_CANDIDATE + 1 + shape.max_depth))
        growing = _grown_beside(suite, suite.another, shape, choices)
        trees.append((suite.another.name, growing.best(0)))
        times.append(SsmTime(suite.another.name, suite.another.draft_ms * max(growing.depth, 1), growing.depth))
    trees = [(name, tree) for name, tree in trees if tree.num_nodes > 1]
    proposed = tuple(_as_proposed(suite, name, tree.with_source(index)) for index, (name, tree) in enumerate(trees))
    merged = TokenTree.of_root(0)
    if proposed:
        merged = merge_trees([each.tree for each in proposed], shape.max_num_nodes + 1)
    return Drafted(merged, proposed, choices, tuple(times), tuple(name for name, _ in trees))


def _as_proposed(suite: Suite, name: str, told: TokenTree) -> ProposedTree:
    return ProposedTree(name, suite.measurements.calibration.corrected(name, told, is_sampled=False), told.log_probs)


def _grown(suite: Suite, shape: TreeShape) -> tuple[DraftTree, tuple[int, ...]]:
    """The first SSM's, and what the verifier chooses."""
    if suite.text is not None:
        growing, chosen = suite.text.grown(shape, suite.told)
        return growing, (*chosen, NO_CANDIDATE)
    growing = DraftTree(shape, Beam())
    rates: dict[int, list[float]] = {}
    expanded = [ROOT] if suite.random.random() <= suite.found_rate else []
    while expanded and growing.num_children():
        for node in expanded:
            rates[node] = candidate_rates(suite.random, suite.hit_rate)[: growing.num_children()]
        children = [
            [(token, math.log(suite.told(rate))) for token, rate in enumerate(rates[node])] for node in expanded
        ]
        expanded = growing.grow(expanded, children)
    return growing, _choices(suite, growing, rates)


def _grown_beside(suite: Suite, another: Another, shape: TreeShape, choices: tuple[int, ...]) -> DraftTree:
    """Another SSM's: the verifier's choice is among its candidates as often as it says, and nothing is right below wrong ones."""
    growing = DraftTree(shape, Beam())
    path = {ROOT: 0}
    expanded = [ROOT]
    while expanded and growing.num_children():
        children = []
        for node in expanded:
            rates = candidate_rates(suite.random, another.hit_rate)[: growing.num_children()]
            wrong = [_WRONG + rank for rank in range(len(rates))]
            depth = path.get(node)
            if depth is not None:
                (right,) = suite.random.choices([*range(len(rates)), None], [*rates, max(1 - sum(rates), 0.0)])
                if right is not None:
                    wrong[right] = choices[depth]
            children.append([(token, math.log(rate)) for token, rate in zip(wrong, rates, strict=True)])
        first = len(growing.token_ids)
        parents = [node for node, pairs in zip(expanded, children, strict=True) for _ in pairs]
        expanded = growing.grow(expanded, children)
        for node, parent in enumerate(parents, start=first):
            if parent in path and growing.token_ids[node] == choices[path[parent]]:
                path[node] = path[parent] + 1
    return growing


def _choices(suite: Suite, growing: DraftTree, rates: dict[int, list[float]]) -> tuple[int, ...]:
    """By the true rates, down to where nothing was drafted any more."""
    node_of = {place: node for node, place in enumerate(zip(growing.parents, growing.token_ids, strict=True))}
    choices, node = [], ROOT
    while node in rates:
        miss = max(1 - sum(rates[node]), 0.0)
        ranks = range(len(rates[node]))
        (token,) = suite.random.choices([*ranks, NO_CANDIDATE], [*rates[node], miss])
        choices.append(token)
        if token == NO_CANDIDATE:
            return tuple(choices)
        node = node_of[node, token]
    return (*choices, NO_CANDIDATE)
