"""The KV slots of one model, and who has them: sequences, and the prefix cache that sequences share. Owned by an engine's thread.

Used by the LLM service's ``Room`` and by every SSM with weights. What a sequence has computed it may share, and what it gives back
stays in the prefix cache until somebody needs the room. Invariant: a slot is free, or one sequence's, or the prefix cache's, or one of
those that were allocated for a tree.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import Protocol

import numpy as np

from specgrove.runtime.kv_slots import SlotPool
from specgrove.runtime.prefix_cache import Place, PrefixCache

# Who waits for another sequence's pass loses one: more often than not that is less than to compute so many tokens.
MIN_REPEATED_LEN = 32


class SlotHolder(Protocol):
    """A sequence. ``slots`` are those of its first tokens; up to ``place`` they belong to the prefix cache, the others to the sequence."""

    token_ids: list[int]
    slots: array[int]
    place: Place | None
    """Set by ``SharedSlots`` alone. ``None``: it shares nothing."""


class CountsEvictions(Protocol):
    """What is told how many slots the prefix cache has given away."""

    num_evicted_slots: int


def shared_len(holder: SlotHolder) -> int:
    """Of its slots those that belong to the prefix cache: they are the first ones."""
    return 0 if holder.place is None else holder.place.end


def next_tokens(holder: SlotHolder, max_len: int) -> tuple[object, ...]:
    """What it computes next, and what that follows. Of two with the same, one may wait for the other's pass, and share it then.

    Empty where it is so little that to wait for another would not pay. ``max_len``: tokens that it may share.
    """
    start = shared_len(holder)
    if holder.place is None or max_len < start + MIN_REPEATED_LEN:
        return ()
    return holder.place, *holder.token_ids[start : start + MIN_REPEATED_LEN]


class SharedSlots:
    """One per model."""

    def __init__(self, num_slots: int, counts: CountsEvictions, prefixes: PrefixCache | None = None) -> None:
        """Without ``prefixes`` nothing is shared or kept."""
        self.num_slots = num_slots
        self._pool = SlotPool(num_slots)
        self._counts = counts
        self._prefixes = prefixes

    @property
    def num_free(self) -> int:
        """Slots that nobody holds: free, or to be had from the prefix cache."""
        return self._pool.num_free + (0 if self._prefixes is None else self._prefixes.num_unheld)

    @property
    def num_cached(self) -> int:
        """Slots of the prefix cache, which sequences may hold, too."""
        return 0 if self._prefixes is None else self._prefixes.num_slots

    def enter(self, holder: SlotHolder, salt: str) -> None:
        """From now on it shares, with all that have the same ``salt``. It must have no slots yet."""
        if self._prefixes is not None and holder.place is None:
            holder.place = self._prefixes.enter(salt)

    def reuse(self, holder: SlotHolder, max_len: int) -> int:
        """Gives it what the prefix cache knows of its next tokens, up to ``max_len`` in all; how many these are."""
        if self._prefixes is None or holder.place is None or len(holder.slots) != holder.place.end:
            return 0  # it computes them by itself already
        start = holder.place.end
        holder.place = self._prefixes.advance(holder.place, holder.token_ids, max_len)
        if holder.place.end > start:
            holder.slots.extend(self._prefixes.slots_of(holder.place, start))
        return holder.place.end - start

    def share(self, holder: SlotHolder, end: int) -> None:
        """Gives the prefix cache the first ``end`` tokens' slots, which are computed. Others' with the same bits may take their place."""
        if self._prefixes is None or holder.place is None or end <= holder.place.end:
            return
        start = holder.place.end
        holder.place, refused = self._prefixes.add(holder.place, holder.token_ids, holder.slots, end)
        if refused:
            holder.slots[start : start + len(refused)] = self._prefixes.slots_of(holder.place, start)[: len(refused)]
            self._pool.free(refused)

    def cut(self, holder: SlotHolder, num_slots: int) -> None:
        """Gives back what it has beyond so many slots, not those that it shares: nobody knows what is in them."""
        assert num_slots >= shared_len(holder), "what is shared was computed"
        self._pool.free(holder.slots[num_slots:])
        del holder.slots[num_slots:]

    def release(self, holder: SlotHolder, num_computed: int, *, is_sound: bool = True) -> None:
        """Takes its slots. The prefix cache keeps the first ``num_computed`` until somebody needs them.

        Where it is not sound they are gone, and so is all that nobody else has of what it had shared.
        """
        if is_sound:
            self.share(holder, num_computed)
        self.cut(holder, shared_len(holder))
        place, holder.place, holder.slots = holder.place, None, array("i")
        if self._prefixes is not None and place is not None:
            self._prefixes.leave(place)
            if not is_sound:
                self._pool.free(self._prefixes.forget(place))

    def allocate(self, num_slots: int) -> list[int]:
        """Slots that nobody holds, to be given back with ``free`` or held by a sequence.

        Raises ``ResourceExhaustedError``, and takes none, where there are fewer than ``num_free``.
        """
        num_missing = num_slots - self._pool.num_free
        if self._prefixes is not None and 0 < num_missing <= self._prefixes.num_unheld:
            self._pool.free(self._prefixes.evict(num_missing))
            self._counts.num_evicted_slots += num_missing
        return self._pool.allocate(num_slots)

    def free(self, slots: Iterable[int]) -> None:
        """Gives back what was allocated, and is held by no sequence."""
        self._pool.free(slots)

    def num_held(self, holders: Collection[SlotHolder]) -> int:
        """Slots that nobody would hold without these sequences."""
        num_own = sum(len(holder.slots) - shared_len(holder) for holder in holders)
        if self._prefixes is None:
            return num_own
        places = [holder.place for holder in holders if holder.place is not None]
        return num_own + self._prefixes.num_held_only_by(places)

    def check(self, holders: Collection[SlotHolder], others: Iterable[int]) -> None:
        """Raises ``RuntimeError`` where a slot has no owner, or two. ``holders`` are all sequences; ``others`` are slots of trees.

        A million slots take some milliseconds: whoever comes meanwhile waits for it.
        """
        owned = [self._pool.free_slots, array("i", others)]
        owned += [holder.slots[shared_len(holder) :] for holder in holders]
        if self._prefixes is not None:
            self._prefixes.check(holder.place for holder in holders)
            owned += [node.slots for node in self._prefixes.nodes()]
        if wrong := _wrong_numbers(owned, self.num_slots):
            raise RuntimeError(f"KV slots without an owner, or with two: {wrong}")
        for holder in holders:
            if self._prefixes is not None and holder.place is not None:
                self._check_shared(holder, holder.place, self._prefixes)

    def _check_shared(self, holder: SlotHolder, place: Place, prefixes: PrefixCache) -> None:
        token_ids = [token_id for node in list(place.path())[::-1] for token_id in node.token_ids]
        if prefixes.slots_of(place, 0) != holder.slots[: place.end]:
            raise RuntimeError(f"a sequence of {len(holder.token_ids)} tokens has other slots than it shares")
        if token_ids != holder.token_ids[: place.end]:
            raise RuntimeError(f"a sequence of {len(holder.token_ids)} tokens shares slots of other tokens")


def _wrong_numbers(owned: Collection[array[int]], num_slots: int) -> str:
    """In words, slots that don't have one owner, and owned ones that are none; ten at most. Empty where all is well."""
    parts = [np.frombuffer(part, np.intc) for part in owned if part]
    ids = np.concatenate(parts) if parts else np.empty(0, np.intc)
    is_slot = (ids >= 0) & (ids < num_slots)
    numbers = np.bincount(ids[is_slot], minlength=num_slots)
    wrong = [f"{slot} has {numbers[slot]}" for slot in np.flatnonzero(numbers != 1)[:10]]
    wrong += [f"{slot} is none of {num_slots}" for slot in np.unique(ids[~is_slot])[:10]]
    return ", ".join(wrong[:10])
