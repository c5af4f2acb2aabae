"""What an SSM with weights holds of a session, and of a draft under way. Changed by ``PassDrafter`` and those built on it alone."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.runtime.pass_builder import TreeRows
from ssm_service.draft_tree import ROOT, DraftTree


@dataclass(slots=True)
class Nodes:
    """Tree nodes whose keys and values are in place. Parents are places in these lists, or ``ROOT``."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Cache:
    """What an SSM holds of one session."""

    slots: array[int] = field(default_factory=lambda: array("i"))  # of committed tokens, one after the other
    nodes: Nodes = field(default_factory=Nodes)  # below the committed tokens as they were at the last draft


@dataclass(slots=True)
class Draft:
    """A draft under way: first the committed tokens not yet held, then the tree, level by level."""

    token_ids: list[int]  # all committed
    cache: Cache
    tree: DraftTree
    sampling: DraftSampling | None  # how the verifier chooses; None: greedily
    expanded: list[int] = field(default_factory=list)  # tree nodes whose children are wanted next
    place_of: dict[int, int] = field(default_factory=lambda: {ROOT: ROOT})  # tree node -> place in cache.nodes
    chunk_len: int = 0
    is_complete: bool = False

    def new_rows(self, slots: list[int]) -> TreeRows:
        """The nodes to expand as rows of a pass; ``slots`` are for them."""
        nodes = self.cache.nodes
        first_new = len(nodes.slots)
        nodes.slots.extend(slots)
        for node in self.expanded:
            self.place_of[node] = len(nodes.token_ids)
            nodes.token_ids.append(self.tree.token_ids[node])
            nodes.parents.append(self.place_of[self.tree.parents[node]])
        return TreeRows(nodes.token_ids, nodes.parents, nodes.slots, first_new)


@dataclass(frozen=True, slots=True)
class DraftRows:
    """A draft's part in a pass: which of its asked rows, and how many children each gets at most."""

    session_id: str
    draft: Draft
    rows: range
    num_children: int
