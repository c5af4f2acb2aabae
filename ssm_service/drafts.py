"""What an SSM with weights holds of a session, and of a draft under way. Changed by ``PassDrafter`` and those built on it alone."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.runtime.pass_builder import TreeRows
from specgrove.runtime.prefix_cache import Place
from ssm_service.draft_tree import ROOT, DraftTree
from ssm_service.nodes import Nodes


@dataclass(slots=True)
class Cache:
    """What an SSM holds of one session: a ``SlotHolder``."""

    token_ids: list[int] = field(default_factory=list)  # all committed; the list is the pool's, and only grows
    slots: array[int] = field(default_factory=lambda: array("i"))  # of committed tokens, one after the other
    place: Place | None = None  # what it shares: never the last committed token, whose logits may be wanted
    is_sound: bool = True  # whether all that was computed is numbers
    nodes: Nodes = field(default_factory=Nodes)  # below the committed tokens as they were at the last draft


@dataclass(slots=True)
class Draft:
    """A draft under way: first the committed tokens not yet held, then the tree, level by level."""

    token_ids: list[int]  # all committed
    cache: Cache
    tree: DraftTree
    sampling: DraftSampling | None  # how the verifier chooses; None: greedily
    ahead_s: float = 0.0  # for so long the tree may grow on when it is complete
    expanded: list[int] = field(default_factory=list)  # tree nodes whose children are wanted next; none yet: the root
    asked: list[int] = field(default_factory=lambda: [ROOT])  # those that the pass under way computes
    place_of: dict[int, int] = field(default_factory=lambda: {ROOT: ROOT})  # tree node -> place in cache.nodes
    chunk_len: int = 0
    is_complete: bool = False

    def grow(self) -> bool:
        """Adds the next level, where it is known what the nodes above it propose; whether it was."""
        nodes, wanted = self.cache.nodes, self.expanded or [ROOT]
        if any(self.place_of.get(node) not in nodes.proposals for node in wanted):
            return False
        num_children = self.tree.num_children()
        children = [nodes.proposals[self.place_of[node]][:num_children] for node in wanted]
        self.expanded = self.tree.grow(wanted, children)
        self.is_complete = not self.expanded
        for node in self.expanded:
            place = nodes.child(self.place_of[self.tree.parents[node]], self.tree.token_ids[node])
            if place is not None:
                self.place_of[node] = place
        return True

    def unknown(self) -> list[int]:
        """The nodes to expand that a pass must compute."""
        return [node for node in self.expanded if self.place_of.get(node) not in self.cache.nodes.proposals]

    def new_rows(self, slots: Sequence[int]) -> TreeRows:
        """The nodes that are asked as rows of a pass; ``slots`` are for them."""
        tree, nodes = self.tree, self.cache.nodes
        for node, slot in zip(self.asked, slots, strict=True):
            parent = self.place_of[tree.parents[node]]
            self.place_of[node] = nodes.add(parent, tree.token_ids[node], tree.log_probs[node], slot)
        return nodes.rows([self.place_of[node] for node in self.asked])


@dataclass(frozen=True, slots=True)
class DraftRows:
    """A draft's part in a pass: which of its asked rows, and how many children each gets at most."""

    session_id: str
    draft: Draft
    rows: range
    num_children: int


@dataclass(frozen=True, slots=True)
class EndedDraft:
    """A session's tree, and how many levels of it were drafted; nodes that are not worth their price were left out since."""

    session_id: str
    tree: TokenTree
    num_levels: int
