"""The pool of one-token KV slots of one model. Owned by an engine's thread; sessions and trees hold lists of slot ids.

Committing an accepted path is moving ids from one list to another: no keys or values are copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from specgrove.errors import ResourceExhaustedError


class SlotPool:
    """Hands out slot ids 0 .. num_slots - 1. Every id is either free or held by exactly one list."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = array("i", range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Slots not held by anyone."""
        return len(self._free)

    @property
    def free_slots(self) -> array[int]:
        """Them, not to be changed."""
        return self._free

    def allocate(self, num_slots: int) -> list[int]:
        """Raises ``ResourceExhaustedError`` and takes none when fewer are free."""
        if num_slots > len(self._free):
            raise ResourceExhaustedError(
                f"{num_slots} KV slots are wanted, {len(self._free)} of {self.num_slots} are free"
            )
        if num_slots == 0:
            return []
        slots = self._free[-num_slots:].tolist()
        del self._free[-num_slots:]
        slots.reverse()
        return slots

    def free(self, slots: Iterable[int]) -> None:
        """Gives slots back."""
        self._free.extend(slots)
