"""The pass as data: a ``Program`` is a flat list of ops over numbered buffers, with the weights that they read.

Made by ``build``, run by the backends. Invariant: its ops stand in an order that every backend can run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.program.linears import Linear
from specgrove.program.op import Buffer, Op, Widths, follow
from specgrove.program.ops import Input
from specgrove.program.output_ops import Choose, KeepHidden, Shortlist


@dataclass(frozen=True, slots=True)
class BufferSpec:
    """Room for ``width`` numbers of every row. Ops may use less of it: the first so many, without gaps between the rows."""

    width: int
    is_input: bool = False
    """It is made for linears and attention: it may hold numbers that are rounded to what they take. Others are float32.

    Backends round once more where an op changes it in place, as ``Scale`` may before logits: not where its factor is a power of two.
    """
    name: str = ""
    """For readers."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Hidden states that a program hands out."""

    width: int
    is_of_asked: bool
    """They are those of asked rows only: they are kept behind ``TakeRows``."""


@dataclass(frozen=True, slots=True)
class Program:
    """One pass of a model, or of a rank's share of it. Holds all weights that it reads.

    Raises ``ValueError`` for ops in an order that backends can't run.
    """

    ops: tuple[Op, ...]
    buffers: tuple[BufferSpec, ...]
    heads: AttentionHeads
    num_layers: int
    """So many pairs of caches."""
    num_kept: int = 0
    """Hidden states that are handed out."""
    dtype: torch.dtype = torch.float32
    """Of plain weights and of caches."""
    input_width: int | None = field(init=False, repr=False, compare=False)
    """Numbers of a row that ``Input`` takes; ``None``: the program has none. Every pass asks for it."""

    def __post_init__(self) -> None:
        input_width = next((op.width for op in self.ops if isinstance(op, Input)), None)
        object.__setattr__(self, "input_width", input_width)
        has_taken_rows = False
        for op in self.ops:
            if has_taken_rows and op.is_of_all_rows:
                raise ValueError(f"{type(op).__name__} must stand before TakeRows: it is of all rows of a pass")
            has_taken_rows = has_taken_rows or op.takes_rows
        places = sorted(op.place for op in self.ops if isinstance(op, KeepHidden))
        if places != list(range(self.num_kept)):
            raise ValueError(
                f"hidden states are handed out at the places {places}, and must be at {self.num_kept} from 0 on"
            )

    @property
    def vocab_size(self) -> int:
        """Logits of an asked row; 0: the program has no head."""
        return next((sum(op.widths) for op in self.ops if isinstance(op, Choose)), 0)

    @property
    def shortlist(self) -> Shortlist | None:
        """The op that hands out candidates, if there is one."""
        return next((op for op in self.ops if isinstance(op, Shortlist)), None)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The hidden states that are handed out, by their places."""
        found: dict[int, Kept] = {}
        has_taken_rows = False
        for op in self.ops:
            has_taken_rows = has_taken_rows or op.takes_rows
            if isinstance(op, KeepHidden):
                found[op.place] = Kept(op.width, has_taken_rows)
        return tuple(found[place] for place in sorted(found))

    def segments(self) -> Iterator[tuple[Op, ...]]:
        """The ops between two that need somebody else (``ends_segment``), and each of these by itself, in order."""
        run: list[Op] = []
        for op in self.ops:
            if op.ends_segment:
                if run:
                    yield tuple(run)
                yield (op,)
                run = []
            else:
                run.append(op)
        if run:
            yield tuple(run)

    def linears(self) -> Iterator[Linear]:
        """In the order of their use."""
        return (linear for op in self.ops for linear in op.linears)

    def widths(self) -> tuple[Widths, ...]:
        """What buffers hold for each op: what it finds in those that it reads, and what it leaves.

        Backends go by it, and not by a buffer's room. Raises ``ValueError`` for an op that doesn't fit what it finds.
        """
        room = [buffer.width for buffer in self.buffers]
        return tuple(follow(self.ops, self.heads, self.num_layers, room))


def buffers_for(
    ops: Sequence[Op], names: Sequence[str], inputs: Collection[Buffer], heads: AttentionHeads, num_layers: int
) -> tuple[BufferSpec, ...]:
    """Buffers of these names, each as wide as any of the ops needs it. ``inputs``: those made for linears and attention."""
    room = [0] * len(names)
    for widths in follow(ops, heads, num_layers):
        for buffer, width in widths.items():
            room[buffer] = max(room[buffer], width)
    return tuple(BufferSpec(room[place], place in inputs, name) for place, name in enumerate(names))
