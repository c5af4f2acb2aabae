"""Which beginnings of texts a replica probably has in its prefix cache, by what was sent there. Used where sessions are placed.

It is a guess: replicas forget what they need the room for, and serve other routers, too. Invariant: it decides speed alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

BLOCK_LEN = 64
"""Tokens that are looked at together."""
_DEFAULT_MAX_NUM_BLOCKS = 4096


class KnownPrefixes:
    """Of one replica. Those used longest ago are forgotten first."""

    def __init__(self) -> None:
        self.max_num_blocks = _DEFAULT_MAX_NUM_BLOCKS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def note_size(self, num_slots: int) -> None:
        """So many KV slots the replica has."""
        self.max_num_blocks = max(num_slots // BLOCK_LEN, 1)

    def add(self, blocks: Iterable[int]) -> None:
        """Tokens that the replica has, or will have soon; ``blocks`` as ``blocks_of`` gives them."""
        for block in reversed(list(blocks)):  # a beginning is used whenever what follows it is
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.max_num_blocks:
            self._blocks.popitem(last=False)

    def num_known(self, blocks: Iterable[int]) -> int:
        """Tokens that the replica probably has."""
        number = 0
        for block in blocks:
            if block not in self._blocks:
                break
            number += BLOCK_LEN
        return number

    def clear(self) -> None:
        """The replica is gone."""
        self._blocks.clear()


def blocks_of(token_ids: Sequence[int], salt: str) -> list[int]:
    """Stand for the text's beginnings of one block, of two, and so on; those of other ``salt`` are others."""
    found: list[int] = []
    block = hash(salt)
    for end in range(BLOCK_LEN, len(token_ids) + 1, BLOCK_LEN):
        block = hash((block, *token_ids[end - BLOCK_LEN : end]))
        found.append(block)
    return found
