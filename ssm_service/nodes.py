"""What an SSM has computed below a session's committed tokens: nodes with keys and values in place, and what it proposes after each.

Owned by a session's ``Cache``. A draft takes from here what is known already. So a tree that has grown while the verifier worked
is the next tree when the verifier's choices lie within it: ``below`` makes the node that they end at the root. Pure Python.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specgrove.loop.token_tree import TokenTree
from specgrove.runtime.pass_builder import TreeRows
from ssm_service.draft_tree import ROOT

Proposals = Sequence[tuple[int, float]]
"""(token id, log-probability) pairs, most probable first: what may follow a node."""

# A node whose path is less probable is not told: it would be the root of hardly any next tree, nor part of one.
_MIN_PATH_SCORE = math.log(1e-3)


@dataclass(slots=True)
class Nodes:
    """Parents are places in these lists, or ``ROOT``, and come before their children."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)  # of the root's children 1
    log_probs: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # cumulative log-probabilities
    proposals: dict[int, Proposals] = field(default_factory=dict)
    """What may follow a place, or the root, most probable first. Where a pass gave no numbers: nothing."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, parent: int, token_id: int, log_prob: float, slot: int) -> int:
        """A node that a pass is about to compute; its place."""
        place = len(self.token_ids)
        self.token_ids.append(token_id)
        self.parents.append(parent)
        self.slots.append(slot)
        self.depths.append(self.depth(parent) + 1)
        self.log_probs.append(log_prob)
        self.scores.append(self.score(parent) + log_prob)
        self._children[parent, token_id] = place
        return place

    def child(self, parent: int, token_id: int) -> int | None:
        """Its place, where it has one."""
        return self._children.get((parent, token_id))

    def depth(self, place: int) -> int:
        """Of the root 0."""
        return self.depths[place] if place != ROOT else 0

    def score(self, place: int) -> float:
        """The logarithm of the probability of its path; of the root 0."""
        return self.scores[place] if place != ROOT else 0.0

    def rows(self, places: Sequence[int]) -> TreeRows:
        """The last places as new rows of a pass, behind those that they follow."""
        before: set[int] = set()
        for place in places:
            parent = self.parents[place]
            while parent != ROOT and parent not in before:
                before.add(parent)
                parent = self.parents[parent]
        told = [*sorted(before), *places]
        row_of = {ROOT: ROOT} | {place: row for row, place in enumerate(told)}
        return TreeRows(
            [self.token_ids[place] for place in told],
            [row_of[self.parents[place]] for place in told],
            [self.slots[place] for place in told],
            first_new=len(before),
        )

    def below(self, root: int) -> Nodes:
        """What hangs below a place, which becomes the root: it must be known what it proposes."""
        found = Nodes(proposals={ROOT: self.proposals[root]})
        new_place = {root: ROOT}
        for place, parent in enumerate(self.parents):
            if parent in new_place:
                new_place[place] = found.add(
                    new_place[parent], self.token_ids[place], self.log_probs[place], self.slots[place]
                )
                if place in self.proposals:
                    found.proposals[new_place[place]] = self.proposals[place]
        return found

    def unexpanded(self, place: int) -> Iterator[tuple[float, int, int, float]]:
        """What a place proposes and nothing is known of yet, as (score, place, token id, log-probability), best first."""
        score = self.score(place)
        for token_id, log_prob in self.proposals[place]:
            if score + log_prob < _MIN_PATH_SCORE:
                return
            if (place, token_id) not in self._children:
                yield score + log_prob, place, token_id, log_prob

    def tree(self, root_token_id: int, max_num_nodes: int) -> TokenTree:
        """The most probable nodes, those among them that are only proposed."""
        found = [
            (score, self.depth(place), place, token_id, log_prob)
            for place, proposals in self.proposals.items()
            for token_id, log_prob in proposals
            if (score := self.score(place) + log_prob) >= _MIN_PATH_SCORE
        ]
        # Of equal ones the upper: a node's parent is always among those chosen.
        chosen = heapq.nsmallest(max_num_nodes, found, key=lambda node: (-node[0], node[1]))
        token_ids, parents, log_probs = [root_token_id], [-1], [0.0]
        node_of = {ROOT: 0}
        for _, _, place, token_id, log_prob in sorted(chosen, key=lambda node: node[1]):
            child = self._children.get((place, token_id))
            if child is not None:
                node_of[child] = len(token_ids)
            token_ids.append(token_id)
            parents.append(node_of[place])
            log_probs.append(min(log_prob, 0.0))
        return TokenTree(tuple(token_ids), tuple(parents), tuple(log_probs), (0,) * len(token_ids))
