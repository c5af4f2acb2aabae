"""Drafting ahead: a tree whose draft is over grows on while the verifier works on it. Pure Python, used by ``PassDrafter``.

The nodes whose paths are most probable are computed first, at whatever depth. So the guesses at the verifier's own next tokens are among
them, each as soon as it is likely enough, and what is computed is what the next tree will most probably hold. One pass takes as many
nodes as raise the probability per millisecond, by the SSM's measured times. Invariant: a growth has a bounded number of nodes, and ends.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specgrove.config import MAX_NUM_TREE_NODES, MAX_TREE_DEPTH
from specgrove.loop.row_times import RowTimes
from specgrove.loop.verifier_knowledge import DraftSampling
from ssm_service.drafts import Cache, Draft
from ssm_service.nodes import Proposals

# Of one pass, all sessions together; and nodes of one tree with keys and values.
_MAX_NUM_ROWS = 32
_MAX_NUM_COMPUTED = MAX_NUM_TREE_NODES

_Node = tuple[float, int, int, float]  # -score, place of the parent, token id, log-probability


@dataclass(slots=True)
class Growth:
    """One session's tree that grows on."""

    token_ids: list[int]  # all committed
    cache: Cache
    sampling: DraftSampling | None
    ends_s: float  # on time.perf_counter's clock
    frontier: list[_Node] = field(default_factory=list)  # a heap: what is proposed and not computed

    @classmethod
    def of(cls, draft: Draft, now_s: float) -> Growth:
        """Of a draft that is over."""
        growth = cls(draft.token_ids, draft.cache, draft.sampling, now_s + draft.ahead_s)
        for place in draft.cache.nodes.proposals:
            growth._add_below(place)
        return growth

    def has_ended(self, now_s: float, max_model_len: int) -> bool:
        """Whether there is no time, or nothing left to compute."""
        return (
            now_s >= self.ends_s
            or not self.frontier
            or len(self.cache.nodes.slots) >= _MAX_NUM_COMPUTED
            or len(self.token_ids) + MAX_TREE_DEPTH > max_model_len
        )

    def take(self, places: Sequence[int], proposals: Sequence[Proposals]) -> None:
        """What a pass found of these places."""
        for place, found in zip(places, proposals, strict=True):
            self.cache.nodes.proposals[place] = found
            self._add_below(place)

    def _add_below(self, place: int) -> None:
        nodes = self.cache.nodes
        if nodes.depth(place) + 1 >= MAX_TREE_DEPTH:
            return
        for score, parent, token_id, log_prob in nodes.unexpanded(place):
            heapq.heappush(self.frontier, (-score, parent, token_id, log_prob))


@dataclass(slots=True)
class GrownRows:
    """A growth's part in a pass: its nodes, then their places, then which of the asked rows they are."""

    session_id: str
    growth: Growth
    nodes: list[_Node]
    places: list[int] = field(default_factory=list)
    rows: range = range(0)

    def begun(self, slots: Sequence[int]) -> GrownRows:
        """With a place and a slot for each node."""
        add = self.growth.cache.nodes.add
        self.places = [
            add(parent, token_id, log_prob, slot)
            for (_, parent, token_id, log_prob), slot in zip(self.nodes, slots, strict=True)
        ]
        return self


def choose_nodes(growths: Mapping[str, Growth], row_times: RowTimes, max_num_rows: int) -> list[GrownRows]:
    """The most probable nodes of all growths, as many as raise the probability per millisecond; they are taken from the frontiers."""
    heads = [(growth.frontier[0][0], session_id) for session_id, growth in growths.items()]
    heapq.heapify(heads)
    taken: list[tuple[str, _Node]] = []
    while heads and len(taken) < min(_MAX_NUM_ROWS, max_num_rows):
        _, session_id = heapq.heappop(heads)
        frontier = growths[session_id].frontier
        taken.append((session_id, heapq.heappop(frontier)))
        if frontier:
            heapq.heappush(heads, (frontier[0][0], session_id))
    num_rows = _num_paying([math.exp(-node[0]) for _, node in taken], row_times)
    chosen: dict[str, GrownRows] = {}
    for session_id, node in taken[:num_rows]:
        chosen.setdefault(session_id, GrownRows(session_id, growths[session_id], [])).nodes.append(node)
    for session_id, node in taken[num_rows:]:
        heapq.heappush(growths[session_id].frontier, node)
    return list(chosen.values())


def _num_paying(probs: Sequence[float], row_times: RowTimes) -> int:
    """Of so many nodes, best first, those that together have the most probability per millisecond."""
    if not probs:
        return 0
    sums = list(itertools.accumulate(probs))
    times_ms = row_times.curve(1, len(probs)) if row_times.is_known else [1.0] * len(probs)
    return max(range(1, len(probs) + 1), key=lambda num: sums[num - 1] / times_ms[num - 1])
