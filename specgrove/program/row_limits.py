"""What the rows of a pass may name: checked on the host before anything is read or written there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_ops import tensor_of
from specgrove.program.backend import KvCaches
from specgrove.program.program import Program


@dataclass(frozen=True, slots=True)
class RowLimits:
    """Of a program. ``None``: nothing is read by token id, or by position."""

    vocab_size: int | None
    num_positions: int | None

    @classmethod
    def of(cls, program: Program) -> RowLimits:
        """From the tables that its ops read."""
        limits: dict[str, int] = {}
        for op in program.ops:
            for name, limit in op.row_limits().items():
                limits[name] = min(limit, limits.get(name, limit))
        return cls(limits.get("token_ids"), limits.get("positions"))

    def check(self, rows: PassRows, caches: KvCaches, num_chosen: int = 0) -> None:
        """Raises ``ValueError`` for a token id, position, slot or row that is not there, and for asked rows that don't rise.

        Token ids may be as low as ``-num_chosen`` where they stand for choices of the pass before.
        """
        for name, limit in self._limits(rows, caches):
            values = getattr(rows, name)
            if not values:
                continue
            lowest = -num_chosen if name == "token_ids" else 0
            low, high = tensor_of(values).aminmax()  # contexts are long: min() and max() would take milliseconds
            if low < lowest or high >= limit:
                raise ValueError(f"{name} must be from {lowest} to {limit - 1}, got {int(low)} to {int(high)}")
        if any(row >= following for row, following in pairwise(rows.asked_rows)):
            raise ValueError("asked_rows must be rows of the pass, in rising order")

    def _limits(self, rows: PassRows, caches: KvCaches) -> Iterator[tuple[str, int]]:
        num_slots = caches.keys[0].shape[0]
        yield from (("slots", num_slots), ("context_slots", num_slots), ("tree_slots", num_slots))
        yield "asked_rows", rows.num_rows
        if self.vocab_size is not None:
            yield "token_ids", self.vocab_size
        if self.num_positions is not None:
            yield "positions", self.num_positions
