"""How many numbers of a row every buffer holds, followed from op to op: once, for all backends, before any of them runs a program.

A buffer may hold rows of one width at one op and of another at the next, so backends go by what it holds there and not by its room.
What doesn't fit together is named here; what a backend's weights must be is the backend's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import torch

from specgrove.models.decoder.parameters import NormWeights
from specgrove.program import ops
from specgrove.program.program import Program

HeldWidths = Mapping[ops.Buffer, int]
"""Numbers of a row in every buffer that holds something."""


def held_widths(program: Program) -> tuple[HeldWidths, ...]:
    """What buffers hold when each op begins. Raises ``ValueError`` for an op that doesn't fit what it finds."""
    following = _Following(program)
    found = []
    for place, op in enumerate(program.ops):
        found.append(following.held)
        try:
            following.add(op)
        except ValueError as error:
            raise ValueError(f"op {place} of the program, {type(op).__name__}: {error}") from error
    return tuple(found)


class _Following:
    """What is held so far."""

    def __init__(self, program: Program) -> None:
        self.held: HeldWidths = {}
        self._program = program
        self._has_taken_rows = False

    def add(self, op: ops.Op) -> None:
        match op:
            case ops.Embed():
                self._write(op.out, op.table.shape[1])
            case ops.AddPositions():
                _check_shape(op.table, "table", len(op.table), self._size(op.x))
            case ops.Input():
                self._write(op.out, op.width)
            case ops.Norm():
                self._check_norm(op.kind, op.weights, self._size(op.x))
                self._write(op.out, self._size(op.x), op.x)
            case ops.AddNorm():
                self._check_size(op.delta, self._size(op.x))
                self._check_norm(op.kind, op.weights, self._size(op.x))
                self._write(op.out, self._size(op.x), op.x, op.delta)
            case ops.HeadNorm():
                self._head_norm(op)
            case ops.Concat():
                self._write(op.out, sum(self._size(part) for part in op.parts), *op.parts)
            case ops.Multiply():
                self._check_inputs(op.linear.in_features, op.x)
                self._write(op.out, op.linear.out_features, op.x)
            case ops.Clip():
                self._check_size(op.x, op.width)
            case ops.RotateStore():
                self._rotate_store(op)
            case ops.Attend():
                self._attend(op)
            case ops.Activate():
                self._check_size(op.x, 2 * op.size if op.is_gated else op.size)
                self._write(op.out, op.size, op.x)
            case ops.Add():
                self._check_size(op.delta, self._size(op.x))
            case ops.TakeRows():
                self.held = {buffer: self._size(buffer) for buffer in op.buffers}
                self._has_taken_rows = True
            case ops.KeepHidden() | ops.SumRanks():
                self._check_size(op.x, op.width)
            case ops.Choose():
                self._check_rows_taken()
                self._check_inputs(op.vocab.in_features, op.x)
            case ops.Shortlist():
                self._shortlist(op)
            case ops.LoadUnit():
                pass
            case _:
                assert_never(op)

    def _head_norm(self, op: ops.HeadNorm) -> None:
        self._check_size(op.x, op.width)
        _check_shape(op.scale, "scale", op.head_dim)
        if min(op.first_head, op.num_heads) < 0 or (op.first_head + op.num_heads) * op.head_dim > op.width:
            raise ValueError(
                f"{op.width} columns have no {op.num_heads} heads of size {op.head_dim} from head {op.first_head} on"
            )

    def _rotate_store(self, op: ops.RotateStore) -> None:
        head_dim = op.heads.head_dim
        self._check_cache(op)
        self._check_size(op.qkv, (op.heads.num_heads + 2 * op.heads.num_kv_heads) * head_dim)
        if op.cos_sin is not None:
            _check_shape(op.cos_sin, "cos_sin", len(op.cos_sin), head_dim)
            if head_dim % 2:
                raise ValueError(f"heads of size {head_dim} can't be rotated: the size must be even")
        self._write(op.queries, op.heads.num_heads * head_dim, op.qkv)

    def _attend(self, op: ops.Attend) -> None:
        size = op.heads.num_heads * op.heads.head_dim
        self._check_cache(op)
        self._check_size(op.queries, size)
        if op.window is not None and op.window < 1:
            raise ValueError(f"window must be at least 1, got {op.window}")
        if op.alibi_slopes is not None:
            _check_shape(op.alibi_slopes, "alibi_slopes", op.heads.num_heads)
        self._write(op.out, size, op.queries)

    def _shortlist(self, op: ops.Shortlist) -> None:
        self._check_rows_taken()
        num_ids = op.scores.out_features
        self._check_inputs(op.scores.in_features, op.scored)
        if not 1 <= op.num_candidates <= num_ids:
            raise ValueError(f"{op.num_candidates} candidates can't be chosen of {num_ids} ids")
        if op.table is not None:
            _check_shape(op.table, "table", num_ids, self._size(op.x))
        elif op.scored != op.x:
            raise ValueError("scores of another buffer need a table of the rows that they stand for")
        if op.token_ids is not None:
            _check_shape(op.token_ids, "token_ids", num_ids)

    def _check_rows_taken(self) -> None:
        if not self._has_taken_rows:
            raise ValueError("rows must be taken before")

    def _check_norm(self, kind: str, weights: NormWeights, size: int) -> None:
        _check_shape(weights.scale, "scale", size)
        if weights.shift is not None:
            if kind == "rms":
                raise ValueError("an RMS norm has no shift")
            _check_shape(weights.shift, "shift", size)

    def _check_inputs(self, in_features: int, x: ops.Buffer) -> None:
        if in_features != self._size(x):
            raise ValueError(f"the linear must have {self._size(x)} inputs, got {in_features}")

    def _check_cache(self, op: ops.RotateStore | ops.Attend) -> None:
        if not 0 <= op.layer < self._program.num_layers:
            raise ValueError(f"the program has caches of {self._program.num_layers} layers, not of layer {op.layer}")
        if op.heads != self._program.heads:
            raise ValueError(f"the program has caches for {self._program.heads}, not for {op.heads}")

    def _size(self, buffer: ops.Buffer) -> int:
        if buffer not in self.held:
            raise ValueError(f"nothing has been written to buffer {buffer}")
        return self.held[buffer]

    def _check_size(self, buffer: ops.Buffer, size: int) -> None:
        if self._size(buffer) != size:
            raise ValueError(f"buffer {buffer} must hold {size} numbers of a row, but holds {self._size(buffer)}")

    def _write(self, buffer: ops.Buffer, size: int, *read: ops.Buffer) -> None:
        """Once it is sure that the buffer can hold this, and that it is none of those that are ``read`` meanwhile."""
        if not 0 <= buffer < len(self._program.buffers):
            raise ValueError(f"there is no buffer {buffer}")
        if buffer in read:
            raise ValueError(f"buffer {buffer} can't be read and written at the same time")
        width = self._program.buffers[buffer].width
        if size > width:
            raise ValueError(f"buffer {buffer} has room for {width} numbers of a row, not for {size}")
        self.held = {**self.held, buffer: size}


def _check_shape(tensor: torch.Tensor, name: str, *shape: int) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")
