"""A program that hands hidden states out, made from one that doesn't: the same weights, and the same bits of all else.

Used by ``build`` and by ``Decoder``, whose passes hand them out only where somebody asks: a program without ``KeepHidden`` costs nothing.
Rests on how ``build`` spells a layer of any residual form: where ``RotateStore`` stands ``HIDDEN`` is the layer's input, with all that was
still to be added to it; where ``Choose`` stands, and in a stage's last op, it is what comes out of the last layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from specgrove.program.op import Op
from specgrove.program.op_list import HIDDEN, QUERIES
from specgrove.program.ops import RotateStore
from specgrove.program.output_ops import Choose, KeepHidden, TakeRows
from specgrove.program.program import Program


def keeping(program: Program, places: Collection[int], hidden_size: int) -> Program:
    """With the hidden states before the layers at ``places`` of the program handed out first, by rising place, for all rows of a pass.

    ``program.num_layers`` stands for those after the last layer. Raises ``ValueError`` for a place that isn't there.
    """
    if strange := sorted(set(places) - set(range(program.num_layers + 1))):
        raise ValueError(f"hidden states are asked for at {strange}; there are those at 0 to {program.num_layers}")
    places = sorted(places)
    ops = _with_rows_taken_last(program.ops) if program.num_layers in places else program.ops
    kept = {place: KeepHidden(HIDDEN, index, hidden_size) for index, place in enumerate(places)}
    return replace(
        program,
        ops=tuple(_with_kept(ops, kept, program.num_layers)),
        num_kept=program.num_kept + len(places),
    )


def _with_kept(ops: Iterable[Op], kept: Mapping[int, KeepHidden], num_layers: int) -> Iterator[Op]:
    for op in ops:
        if isinstance(op, KeepHidden):  # what goes to the next stage, which is what comes out of the last layer
            if num_layers in kept:
                yield kept[num_layers]
            yield replace(op, place=op.place + len(kept))
            continue
        if isinstance(op, TakeRows) and QUERIES not in op.buffers and num_layers in kept:
            yield kept[num_layers]
        yield op
        if isinstance(op, RotateStore) and op.layer in kept:
            yield kept[op.layer]


def _with_rows_taken_last(ops: Iterable[Op]) -> Iterator[Op]:
    """All rows go through the last layer, and through the norm behind it."""
    takes_early = False
    for op in ops:
        if isinstance(op, TakeRows) and QUERIES in op.buffers:
            takes_early = True
            continue
        if isinstance(op, Choose) and takes_early:
            yield TakeRows((op.x,))
        yield op
