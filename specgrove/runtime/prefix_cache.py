"""Which KV slots hold which beginnings of texts, so that they are not computed again: a radix tree over token ids.

Owned by an engine's thread.

A node has the tokens of an edge, and a slot for each. Sessions hold a place in the tree (``Place``), and with it all that lies above;
what nobody holds may be evicted, what was used longest ago first, from the ends of texts. Since a row's bits depend on the tokens
before it alone, slots that are used again are those that would have been computed, bit for bit. Invariant: a slot in the tree is in one
node, and nowhere else; a node is held by as many sessions as have their place at it or below.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence


class Place:
    """A node of the tree: the tokens of one edge, their slots, and what goes on from there. Its fields are the cache's alone."""

    __slots__ = ("children", "end", "last_used", "num_holders", "parent", "slots", "token_ids")

    def __init__(self, parent: Place | None, token_ids: array[int], slots: array[int]) -> None:
        self.parent = parent
        self.token_ids = token_ids
        self.slots = slots
        self.end: int = len(slots) + (0 if parent is None else parent.end)
        """Tokens from the beginning of the text to the end of this edge."""
        self.children: dict[int, Place] = {}
        self.num_holders = 0
        self.last_used = 0

    def path(self) -> Iterator[Place]:
        """This node and those above it, up to the root."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.parent


class PrefixCache:
    """One per engine. Texts of different ``salt`` share nothing."""

    def __init__(self) -> None:
        self._roots: dict[str, Place] = {}
        self._salts: dict[Place, str] = {}  # of the roots
        self._uses = itertools.count(1)
        self._evictable: list[
            tuple[int, int, Place]
        ] = []  # a heap of leaves that nobody holds; some have changed since
        self._orders = itertools.count()
        self.num_slots = 0
        """Slots in the tree."""
        self.num_unheld = 0
        """Those of them that may be evicted."""
        self.num_nodes = 0

    def enter(self, salt: str) -> Place:
        """A place at the beginning of all texts, held until it is left."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Place(None, array("i"), array("i"))
            self._salts[root] = salt
        root.num_holders += 1
        return root

    def leave(self, place: Place) -> None:
        """Gives a place up."""
        now = next(self._uses)
        for node in place.path():
            node.num_holders -= 1
            node.last_used = now
            if node.num_holders == 0:
                self.num_unheld += len(node.slots)
                self._note_leaf(node)

    def advance(self, place: Place, token_ids: Sequence[int], max_len: int) -> Place:
        """Further along the text ``token_ids``, as far as it is known, but ``max_len`` tokens at most. The place given is held no more."""
        if max_len <= place.end or token_ids[place.end] not in place.children:
            return place
        wanted = array("i", token_ids[place.end : max_len])
        start = 0
        while start < len(wanted) and (child := place.children.get(wanted[start])) is not None:
            num_common = _common_len(child.token_ids, wanted[start:])
            if num_common < len(child.token_ids):
                child = self._split(child, num_common)
            self._hold(child)
            place, start = child, start + num_common
        return place

    def add(self, place: Place, token_ids: Sequence[int], slots: array[int], end: int) -> tuple[Place, array[int]]:
        """Takes the slots of tokens ``place.end`` to ``end - 1`` of a text, where they are not known yet.

        Returns the place at ``end``, and the slots that were not taken: others are there for their tokens (``slots_of``).
        """
        start = place.end
        place = self.advance(place, token_ids, end)
        refused = slots[start : place.end]
        if place.end < end:
            place = self._append(place, array("i", token_ids[place.end : end]), slots[place.end : end])
        return place, refused

    def slots_of(self, place: Place, start: int) -> array[int]:
        """Those of tokens ``start`` to ``place.end - 1``."""
        parts = []
        for node in place.path():
            if node.end <= start:
                break
            first = node.end - len(node.slots)
            parts.append(node.slots[max(start - first, 0) :])
        return array("i", itertools.chain.from_iterable(reversed(parts)))

    def num_held_only_by(self, places: Iterable[Place]) -> int:
        """Slots that nobody would hold if all these places were left."""
        leaving = Counter(node for place in places for node in place.path())
        return sum(len(node.slots) for node, number in leaving.items() if number == node.num_holders)

    def evict(self, num_slots: int) -> list[int]:
        """Forgets what was used longest ago: so many slots, or all that nobody holds."""
        found: list[int] = []
        while len(found) < num_slots and self._evictable:
            last_used, _, node = heapq.heappop(self._evictable)
            if not _is_evictable(node, last_used):
                continue
            keep = max(len(node.slots) - (num_slots - len(found)), 0)
            found += node.slots[keep:]
            self._cut(node, keep)
        return found

    def forget(self, place: Place) -> list[int]:
        """The slots of a text whose place was left, from its end back to where others go on or are: nobody finds them any more."""
        found: list[int] = []
        while place.parent is not None and place.num_holders == 0 and not place.children:
            parent = place.parent
            found += place.slots
            self._cut(place, 0)
            place = parent
        return found

    def nodes(self) -> Iterator[Place]:
        """All of them, roots too."""
        waiting = list(self._roots.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()

    def check(self, places: Iterable[Place | None]) -> None:
        """Raises ``RuntimeError`` where its numbers are not those of the tree, or of the ``places`` held."""
        holders = Counter(node for place in places if place is not None for node in place.path())
        nodes = list(self.nodes())
        edges = [node for node in nodes if node.parent is not None]
        if any(node.num_holders != holders[node] for node in nodes):
            raise RuntimeError("nodes of the prefix cache are held by others than those who hold them")
        if any(len(node.slots) != len(node.token_ids) or not node.slots for node in edges):
            raise RuntimeError("a node of the prefix cache has not a slot for each token")
        found = (
            sum(len(node.slots) for node in nodes),
            sum(len(node.slots) for node in nodes if node.num_holders == 0),
            len(edges),
        )
        if found != (self.num_slots, self.num_unheld, self.num_nodes):
            raise RuntimeError(
                f"the prefix cache's numbers {self.num_slots, self.num_unheld, self.num_nodes} are {found}"
            )

    def _hold(self, node: Place) -> None:
        if node.num_holders == 0:
            self.num_unheld -= len(node.slots)
        node.num_holders += 1

    def _append(self, place: Place, token_ids: array[int], slots: array[int]) -> Place:
        """Behind a place that is held by the caller: at the end of its edge where that is the caller's alone, else as a new one."""
        self.num_slots += len(slots)
        if place.parent is not None and place.num_holders == 1 and not place.children:
            place.token_ids += token_ids
            place.slots += slots
            place.end += len(slots)
            return place
        child = place.children[token_ids[0]] = Place(place, token_ids, slots)
        child.num_holders = 1
        self.num_nodes += 1
        return child

    def _split(self, node: Place, num_tokens: int) -> Place:
        """Makes two edges of one; returns the upper one. Who has a place at the end of the edge keeps it."""
        assert node.parent is not None
        upper = Place(node.parent, node.token_ids[:num_tokens], node.slots[:num_tokens])
        upper.num_holders, upper.last_used = node.num_holders, node.last_used
        node.parent.children[upper.token_ids[0]] = upper
        node.parent, node.token_ids, node.slots = upper, node.token_ids[num_tokens:], node.slots[num_tokens:]
        upper.children[node.token_ids[0]] = node
        self.num_nodes += 1
        return upper

    def _cut(self, node: Place, keep: int) -> None:
        """Leaves the first ``keep`` tokens of a leaf; with none of them it is gone."""
        num_gone = len(node.slots) - keep
        self.num_slots -= num_gone
        self.num_unheld -= num_gone
        node.end -= num_gone
        first_id = node.token_ids[0]
        del node.token_ids[keep:], node.slots[keep:]
        parent = node.parent
        assert parent is not None
        if keep == 0:
            del parent.children[first_id]
            self.num_nodes -= 1
            node.parent, node = None, parent
        if node.num_holders == 0:
            self._note_leaf(node)

    def _note_leaf(self, node: Place) -> None:
        """Something may have become a leaf that nobody holds."""
        if node.children:
            return
        if node.parent is None:
            del self._roots[self._salts.pop(node)]
            return
        heapq.heappush(self._evictable, (node.last_used, next(self._orders), node))
        if len(self._evictable) > 2 * self.num_nodes + 64:  # most of them have been used again since
            self._evictable = [entry for entry in self._evictable if _is_evictable(entry[2], entry[0])]
            heapq.heapify(self._evictable)


def _is_evictable(node: Place, last_used: int) -> bool:
    is_leaf = node.parent is not None and not node.children
    return is_leaf and node.num_holders == 0 and node.last_used == last_used


def _common_len(first: array[int], second: array[int]) -> int:
    """How many elements they have in common from their beginnings on."""
    same, different = 0, min(len(first), len(second))
    if first[:different] == second[:different]:
        return different
    while different - same > 1:  # so many are the same, and so many aren't
        middle = (same + different) // 2
        if first[same:middle] == second[same:middle]:
            same = middle
        else:
            different = middle
    return same
