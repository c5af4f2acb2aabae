"""Who has which KV slot: the check finds slots without an owner, with two, and numbers that are no slot."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import pytest

from specgrove.runtime.prefix_cache import Place
from specgrove.runtime.shared_slots import SharedSlots

NUM_SLOTS = 16


@dataclass
class Holder:
    token_ids: list[int] = field(default_factory=list)
    slots: array[int] = field(default_factory=lambda: array("i"))
    place: Place | None = None


@dataclass
class Counts:
    num_evicted_slots: int = 0


@pytest.mark.parametrize(
    ("missing", "more", "told"),
    [
        (1, [], "with two: 3 has 0$"),
        (0, [2], "with two: 2 has 2$"),
        (0, [-1], f"with two: -1 is none of {NUM_SLOTS}$"),
        (0, [NUM_SLOTS, NUM_SLOTS], f"with two: {NUM_SLOTS} is none of {NUM_SLOTS}$"),
        (4, [], "with two: 0 has 0, 1 has 0, 2 has 0, 3 has 0$"),
    ],
)
def test_the_check_names_slots_that_have_not_one_owner(missing: int, more: list[int], told: str) -> None:
    shared, holder = SharedSlots(NUM_SLOTS, Counts()), Holder()
    slots = shared.allocate(4)
    holder.slots.extend(slots)
    shared.check([holder], [])
    holder.slots = array("i", slots[: 4 - missing] + more)
    with pytest.raises(RuntimeError, match=told):
        shared.check([holder], [])


def test_the_check_counts_slots_of_trees() -> None:
    shared = SharedSlots(NUM_SLOTS, Counts())
    tree = shared.allocate(3)
    shared.check([], tree)
    with pytest.raises(RuntimeError, match="0 has 0, 1 has 0, 2 has 0"):
        shared.check([], [])
