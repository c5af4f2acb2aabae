"""The prefix cache against a plain list of what it was told: it finds the longest beginning that it has, and forgets what is oldest."""

from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from specgrove.runtime.prefix_cache import Place, PrefixCache

TEXTS = st.lists(st.integers(0, 2), max_size=12)
SALTS = st.sampled_from(("", "a"))


def kept(cache: PrefixCache, text: list[int], salt: str = "") -> array[int]:
    """Slots that are known of a text; its place is left again."""
    place = cache.advance(cache.enter(salt), text, len(text))
    slots = cache.slots_of(place, 0)
    cache.leave(place)
    return slots


def put(cache: PrefixCache, text: list[int], first_slot: int, salt: str = "") -> array[int]:
    """Slots that it does not take."""
    place, refused = cache.add(
        cache.enter(salt), text, array("i", range(first_slot, first_slot + len(text))), len(text)
    )
    cache.leave(place)
    return refused


def test_a_text_is_found_as_far_as_it_is_known() -> None:
    cache = PrefixCache()
    assert put(cache, [1, 2, 3, 4], 10) == array("i")
    assert kept(cache, [1, 2, 3, 4, 5]) == array("i", [10, 11, 12, 13])
    assert kept(cache, [1, 2, 9]) == array("i", [10, 11])
    assert kept(cache, [2, 3]) == array("i")
    assert kept(cache, [1, 2, 3], salt="other") == array("i")


def test_what_is_there_already_is_not_taken() -> None:
    cache = PrefixCache()
    put(cache, [1, 2, 3, 4], 10)
    assert put(cache, [1, 2, 7, 8], 20) == array("i", [20, 21])
    assert kept(cache, [1, 2, 7, 8]) == array("i", [10, 11, 22, 23])
    assert (cache.num_slots, cache.num_nodes) == (6, 3)


def test_ends_of_texts_used_longest_ago_are_evicted_first() -> None:
    cache = PrefixCache()
    put(cache, [1, 2, 3, 4], 10)
    put(cache, [1, 2, 7, 8], 20)
    put(cache, [5, 6], 30)
    kept(cache, [1, 2, 3, 4])
    assert sorted(cache.evict(3)) == [22, 23, 31]
    assert kept(cache, [1, 2, 3, 4]) == array("i", [10, 11, 12, 13])
    assert kept(cache, [5, 6]) == array("i", [30])
    assert sorted(cache.evict(100)) == [10, 11, 12, 13, 30]
    assert (cache.num_slots, cache.num_nodes, list(cache.nodes())) == (0, 0, [])


def test_what_is_held_is_not_evicted() -> None:
    cache = PrefixCache()
    put(cache, [1, 2, 3, 4], 10)
    place = cache.advance(cache.enter(""), [1, 2], 2)
    assert cache.num_held_only_by([place]) == 2
    assert sorted(cache.evict(100)) == [12, 13]
    other = cache.advance(cache.enter(""), [1, 2], 2)
    assert (cache.num_held_only_by([place]), cache.num_held_only_by([place, other])) == (0, 2)
    cache.leave(other)
    cache.leave(place)
    assert sorted(cache.evict(100)) == [10, 11]


def test_uses_leave_nothing_behind() -> None:
    """A prompt that is asked for again and again, and salts that are never seen again."""
    cache = PrefixCache()
    put(cache, [1, 2, 3], 10)
    for number in range(1000):
        kept(cache, [1, 2, 3])
        kept(cache, [1], salt=str(number))
    assert len(cache._evictable) < 100
    assert len(cache._roots) == len(cache._salts) == 1


class Machine(RuleBasedStateMachine):
    """Sessions that come, share what they have computed, and go; slots are numbers that are never used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache()
        self.tokens: dict[int, tuple[str, tuple[int, ...]]] = {}  # by slot: the text up to it
        self.held: list[tuple[str, list[int], Place]] = []
        self.num_slots = 0

    def known(self, salt: str, text: list[int]) -> int:
        there = set(self.tokens.values())
        return next((n for n in range(len(text)) if (salt, tuple(text[: n + 1])) not in there), len(text))

    @rule(salt=SALTS, text=TEXTS, keep=st.booleans())
    def come(self, salt: str, text: list[int], keep: bool) -> None:
        place = self.cache.advance(self.cache.enter(salt), text, len(text))
        slots = self.cache.slots_of(place, 0)
        assert place.end == len(slots) == self.known(salt, text)
        assert [self.tokens[slot] for slot in slots] == [(salt, tuple(text[: n + 1])) for n in range(len(slots))]
        if keep:
            self.held.append((salt, text, place))
        else:
            self.cache.leave(place)

    @rule(index=st.integers(0, 10), more=TEXTS)
    def share(self, index: int, more: list[int]) -> None:
        if not self.held:
            return
        salt, text, place = self.held.pop(index % len(self.held))
        text = text[: place.end] + more
        new = range(self.num_slots, self.num_slots + len(text) - place.end)
        self.num_slots = new.stop
        num_known = self.known(salt, text)
        slots = self.cache.slots_of(place, 0) + array("i", new)
        start = place.end
        place, refused = self.cache.add(place, text, slots, len(text))
        assert refused == slots[start:num_known]
        for length in range(num_known, len(text)):
            self.tokens[slots[length]] = (salt, tuple(text[: length + 1]))
        self.held.append((salt, text, place))

    @rule(index=st.integers(0, 10))
    def go(self, index: int) -> None:
        if self.held:
            self.cache.leave(self.held.pop(index % len(self.held))[2])

    @rule(index=st.integers(0, 10))
    def fail(self, index: int) -> None:
        """What nobody else has of it is gone."""
        if not self.held:
            return
        salt, text, place = self.held.pop(index % len(self.held))
        text = text[: place.end]
        self.cache.leave(place)
        gone = {self.tokens.pop(slot) for slot in self.cache.forget(place)}
        assert gone <= {(salt, tuple(text[:length])) for length in range(1, len(text) + 1)}
        others = [(other, tuple(known[: held.end])) for other, known, held in self.held] + list(self.tokens.values())
        for length in range(1, len(text) + 1):
            is_used = any(other == salt and list(known[:length]) == text[:length] for other, known in others)
            assert is_used == ((salt, tuple(text[:length])) not in gone)

    @rule(num_slots=st.integers(0, 10))
    def evict(self, num_slots: int) -> None:
        num_unheld = self.cache.num_unheld
        gone = self.cache.evict(num_slots)
        assert len(gone) == min(num_slots, num_unheld)
        for slot in gone:
            del self.tokens[slot]

    @invariant()
    def its_numbers_are_right(self) -> None:
        self.cache.check(place for _, _, place in self.held)
        assert sorted(slot for node in self.cache.nodes() for slot in node.slots) == sorted(self.tokens)
        for salt, text, place in self.held:
            slots = self.cache.slots_of(place, 0)
            assert [self.tokens[slot] for slot in slots] == [(salt, tuple(text[: n + 1])) for n in range(len(slots))]


def test_whatever_happens() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
    )
