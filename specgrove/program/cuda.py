"""Runs a program by the kernels for GPUs: a list of launches, made once, on the current stream. They may be captured into graphs.

Made by ``DeviceWeights`` for models that the kernels can run. What takes one kernel is one launch, also where it is two ops: an embedding
with learned positions, and the norm of the rows that are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.device_limits import why_not_heads
from specgrove.program.backend import KvCaches, PassOutput, check_input
from specgrove.program.cuda_launches import (
    DEVICE_LINEARS,
    CudaOp,
    CudaPass,
    EmbedAtPositions,
    Launches,
    NormOfAsked,
    TakeBuffer,
)
from specgrove.program.linears import check_linears
from specgrove.program.op import Op, Widths
from specgrove.program.ops import AddPositions, Attend, Embed, Input, LoadUnit, Norm
from specgrove.program.output_ops import TakeRows
from specgrove.program.pass_numbers import PassNumbers
from specgrove.program.pass_room import PassRoom
from specgrove.program.program import Program
from specgrove.program.row_limits import RowLimits
from specgrove.program.tensor_group import TensorGroup


class CudaProgram:
    """See ``Executable``. A pass has two parts: ``run_rows`` goes up to ``TakeRows``, ``run_asked`` on from there."""

    def __init__(
        self,
        program: Program,
        device: torch.device,
        group: TensorGroup,
        will_run: Callable[[int], None],
    ) -> None:
        """``will_run`` is told the unit of weights that is used next.

        Raises ``ValueError`` for a model that the kernels can't run.
        """
        if (reason := why_not_heads(program.heads, str(program.dtype).removeprefix("torch."))) is not None:
            raise ValueError(f"the kernels for GPUs can't run this model: {reason}")
        self.program, self.device = program, device
        self.row_limits = RowLimits.of(program)
        check_linears(program.linears(), DEVICE_LINEARS, "the kernels for GPUs")
        self._group = group
        launches = Launches(group, device, will_run)
        placed = tuple(zip(program.ops, program.widths(), strict=True))
        before, after = _divided(placed)
        self._row_launches = [launches.of(op, held) for op, held in _with_learned_positions(before)]
        self._asked_launches = [launches.of(op, held) for op, held in _with_rows_taken(after)]

    @property
    def can_be_captured(self) -> bool:
        """Whether a pass is one fixed sequence of launches: no weights are brought in between, and sums over ranks are launches too."""
        return self._group.can_be_captured and not any(isinstance(op, LoadUnit) for op in self.program.ops)

    @property
    def has_head(self) -> bool:
        """Whether logits come out."""
        return self.program.vocab_size > 0

    @property
    def takes_rows(self) -> bool:
        """Whether there is a second part."""
        return bool(self._asked_launches)

    @property
    def is_whole(self) -> bool:
        """Whether it goes from token ids to logits."""
        return self.has_head and not any(isinstance(op, Input) for op in self.program.ops)

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """See ``Executable``: logits for all asked rows."""
        rows.check()
        self.row_limits.check(rows, caches)
        num_rows, num_asked = rows.num_rows, len(rows.asked_rows)
        numbers = PassNumbers.of(rows, self.program.heads, self.device)
        room = self.run_alone(numbers, caches, num_rows, num_asked, hidden)
        return PassOutput((), room.logits.cpu(), room.kept, candidates=room.candidates())

    def run_alone(
        self,
        numbers: PassNumbers,
        caches: KvCaches,
        num_rows: int,
        num_asked: int,
        hidden: torch.Tensor | None = None,
    ) -> PassRoom:
        """Launches a pass in room of its own, which has what comes out. Raises ``ValueError`` where ``hidden`` is not what it takes."""
        check_input(self.program, num_rows, hidden)
        room = PassRoom(self.program, num_rows, num_asked, self.device)
        run = CudaPass(numbers, room, caches, num_rows, hidden)
        self.run_rows(run)
        self.run_asked(replace(run, num_rows=num_asked))
        return room

    def run_rows(self, run: CudaPass) -> None:
        """Launches the first part."""
        for launch in self._row_launches:
            launch(run)

    def run_asked(self, run: CudaPass) -> None:
        """Launches the second part, over so many asked rows; nothing for none."""
        if run.num_rows:
            for launch in self._asked_launches:
                launch(run)


_Placed: TypeAlias = tuple[Op, Widths]
"""An op, and what buffers hold for it."""


def _divided(ops: Sequence[_Placed]) -> tuple[Sequence[_Placed], Sequence[_Placed]]:
    """Up to ``TakeRows``, and from it on."""
    place = next((place for place, (op, _) in enumerate(ops) if isinstance(op, TakeRows)), len(ops))
    return ops[:place], ops[place:]


def _with_learned_positions(ops: Sequence[_Placed]) -> list[tuple[CudaOp, Widths]]:
    found: list[tuple[CudaOp, Widths]] = []
    for op, held in ops:
        before = found[-1][0] if found else None
        if isinstance(op, AddPositions) and isinstance(before, Embed) and before.out == op.x:
            found[-1] = (EmbedAtPositions(before, op), held)
        else:
            found.append((op, held))
    return found


def _with_rows_taken(ops: Sequence[_Placed]) -> list[tuple[CudaOp, Widths]]:
    """A norm takes the rows where it is all that reads them."""
    if not ops:
        return []
    (taken, held), *rest = ops
    assert isinstance(taken, TakeRows), "it stands first"
    if any(isinstance(op, Attend) for op, _ in rest):
        raise ValueError("on a GPU attention is of all rows: rows are taken behind it")
    match rest:
        case [(Norm() as norm, held_by_norm), *others] if taken.buffers == (norm.x,):
            if not any(norm.x in op.read for op, _ in others):
                return [(NormOfAsked(norm), held_by_norm), *others]
    return [*((TakeBuffer(buffer, held[buffer]), held) for buffer in taken.buffers), *rest]
