"""A text that policies meet alike: at each place the candidates that a simulated SSM has for it, and which of them the verifier chooses.

Policies that are compared on one text differ by what they decide, hardly by luck. Used by ``simulated_drafts`` where a suite has one.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgrove.loop.works import TreeShape
from ssm_service.draft_tree import ROOT, Beam, DraftTree

# How surely a drafter knows the next token differs from place to place: of a beta distribution these are the two parameters' sum.
_SURENESS = 2.0
# The others are right as often as the first is and leaves them, times this.
_OTHER_SHARES = (0.6, 0.3)


def candidate_rates(generator: random.Random, hit_rate: float) -> list[float]:
    """How often each candidate of one place is right, best first."""
    rate = generator.betavariate(_SURENESS * hit_rate, _SURENESS * (1 - hit_rate))
    rate = min(max(rate, 1e-3), 0.999)
    return [rate, *(rate * (1 - rate) * share for share in _OTHER_SHARES)]


@dataclass(frozen=True)
class Place:
    """``chosen`` is the candidate that the verifier chooses; ``None``: none of them."""

    rates: tuple[float, ...]
    chosen: int | None


class Text:
    """One text, as long as is asked."""

    def __init__(self, seed: int, hit_rate: float) -> None:
        """``hit_rate`` is the mean of the first candidate's."""
        self._seed = seed
        self._hit_rate = hit_rate
        self.position = 0
        """Of the next token."""
        self._place = functools.cache(self._place_at)

    def _place_at(self, position: int) -> Place:
        generator = random.Random(self._seed * 1_000_003 + position)
        rates = candidate_rates(generator, self._hit_rate)
        choices = [*range(len(rates)), None]
        (chosen,) = generator.choices(choices, [*rates, max(1 - sum(rates), 0.0)])
        return Place(tuple(rates), chosen)

    def grown(self, shape: TreeShape, told: Callable[[float], float]) -> tuple[DraftTree, list[int]]:
        """What the SSM drafts here, and the candidates chosen from here on, to the first place where it is none, or the tree ends."""
        growing, expanded = DraftTree(shape, Beam()), [ROOT]
        depth_on_path = {ROOT: 0}
        elsewhere = random.Random(self._seed * 7919 + self.position)  # below wrong tokens is another text
        while expanded and growing.num_children():
            children = []
            for node in expanded:
                rates = self._rates(depth_on_path.get(node), elsewhere)
                children.append(
                    [(rank, math.log(told(rate))) for rank, rate in enumerate(rates[: growing.num_children()])]
                )
            first = len(growing.token_ids)
            parents = [node for node, pairs in zip(expanded, children, strict=True) for _ in pairs]
            expanded = growing.grow(expanded, children)
            for node, parent in enumerate(parents, start=first):
                depth = depth_on_path.get(parent)
                if depth is not None and growing.token_ids[node] == self._place(self.position + depth).chosen:
                    depth_on_path[node] = depth + 1
        chosen = []
        for depth in range(growing.depth):
            candidate = self._place(self.position + depth).chosen
            if candidate is None:
                break
            chosen.append(candidate)
        return growing, chosen

    def _rates(self, depth: int | None, elsewhere: random.Random) -> Sequence[float]:
        """So deep below the next token; ``None``: below a wrong one."""
        if depth is None:
            return candidate_rates(elsewhere, self._hit_rate)
        return self._place(self.position + depth).rates
