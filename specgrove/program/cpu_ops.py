"""From a program's ops to those of the native interpreter, once, at loading.

What buffers hold is followed by ``held_widths``, so that what doesn't fit together is named there and not read or written beyond its end
in native code. Here are the kernels' own limits. The native kinds and their fields are in csrc/cpu/program.cpp.
"""

from __future__ import annotations

from typing import assert_never

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype, optional_address
from specgrove.kernels.linear import NativeLinear
from specgrove.program import ops
from specgrove.program.held_widths import HeldWidths, held_widths
from specgrove.program.linears import Linear
from specgrove.program.program import Program

_ACTIVATIONS: dict[str, _native.Activation] = {
    "silu": _native.Activation.silu,
    "gelu": _native.Activation.gelu,
    "gelu_tanh": _native.Activation.gelu_tanh,
    "relu": _native.Activation.relu,
}


def native_program(program: Program, rank: int = 0) -> _native.Program:
    """Raises ``ValueError`` for ops that don't fit together. The caller keeps ``program`` alive."""
    heads = program.heads
    if program.num_layers and (heads.num_heads % heads.num_kv_heads or heads.head_dim > _native.MAX_HEAD_DIM):
        raise ValueError(
            f"{heads.num_heads} heads over {heads.num_kv_heads} KV heads of size {heads.head_dim} are not supported"
        )
    translation = _Translation(program, rank)
    for place, (op, held) in enumerate(zip(program.ops, held_widths(program), strict=True)):
        try:
            translation.add(op, held)
        except ValueError as error:
            raise ValueError(f"op {place} of the program, {type(op).__name__}: {error}") from error
    return translation.native


class _Translation:
    """The native program so far."""

    def __init__(self, program: Program, rank: int) -> None:
        self.native = _native.Program([buffer.width for buffer in program.buffers])
        self._rank, self._num_kept = rank, program.num_kept

    def add(self, op: ops.Op, held: HeldWidths) -> None:
        """The next one; ``held``: what buffers hold when it begins."""
        match op:
            case ops.Embed():
                self._embed(op)
            case ops.AddPositions():
                num_positions, dtype = _checked_rows(op.table), native_dtype(op.table, "table")
                table, size = op.table.data_ptr(), held[op.x]
                self.native.add(
                    "add_positions", x=op.x, table=table, dtype=dtype, num_positions=num_positions, size=size
                )
            case ops.Input():
                self.native.add("input", out=op.out, size=op.width)
            case ops.Norm():
                self.native.add("norm", out=op.out, x=op.x, **_norm_fields(op, held[op.x]))
            case ops.AddNorm():
                self.native.add("add_norm", out=op.out, x=op.x, delta=op.delta, **_norm_fields(op, held[op.x]))
            case ops.HeadNorm():
                self._head_norm(op)
            case ops.Concat():
                sizes = [held[part] for part in op.parts]
                self.native.add("concat", out=op.out, parts=list(op.parts), sizes=sizes)
            case ops.Multiply():
                self.native.add("multiply", out=op.out, x=op.x, linear=_native_linear(op.linear))
            case ops.Clip():
                self.native.add("clip", x=op.x, limit=float(op.limit), width=op.width)
            case ops.RotateStore():
                self._rotate_store(op)
            case ops.Attend():
                self._attend(op)
            case ops.Activate():
                activation = _activation(op.activation)
                self.native.add(
                    "activate", out=op.out, x=op.x, activation=activation, is_gated=op.is_gated, size=op.size
                )
            case ops.Add():
                self.native.add("add", x=op.x, delta=op.delta, size=held[op.x])
            case ops.TakeRows():
                sizes = [held[buffer] for buffer in op.buffers]
                self.native.add("take_rows", buffers=list(op.buffers), sizes=sizes)
            case ops.KeepHidden():
                self.native.add("keep_hidden", x=op.x, place=op.place, width=op.width)
            case ops.Choose():
                self._choose(op)
            case ops.Shortlist():
                self._shortlist(op, held)
            case ops.SumRanks() | ops.LoadUnit():
                pass
            case _:
                assert_never(op)

    def _embed(self, op: ops.Embed) -> None:
        num_ids, size = op.table.shape
        self.native.add(
            "embed",
            out=op.out,
            table=op.table.data_ptr(),
            dtype=native_dtype(op.table, "table"),
            first_id=op.first_id,
            num_ids=num_ids,
            size=size,
            scale=float(op.scale),
            vocab_size=op.vocab_size,
        )

    def _head_norm(self, op: ops.HeadNorm) -> None:
        self.native.add(
            "head_norm",
            x=op.x,
            scale=optional_address(op.scale, "scale", op.head_dim),
            eps=float(op.eps),
            first_head=op.first_head,
            num_heads=op.num_heads,
            head_dim=op.head_dim,
            width=op.width,
        )

    def _rotate_store(self, op: ops.RotateStore) -> None:
        num_positions = 0 if op.cos_sin is None else _checked_rows(op.cos_sin)
        self.native.add(
            "rotate_store",
            queries=op.queries,
            qkv=op.qkv,
            layer=op.layer,
            cos_sin=optional_address(op.cos_sin, "cos_sin", num_positions, op.heads.head_dim),
            num_positions=num_positions,
            **_head_fields(op),
        )

    def _attend(self, op: ops.Attend) -> None:
        self.native.add(
            "attend",
            out=op.out,
            queries=op.queries,
            layer=op.layer,
            scale=float(op.scale),
            alibi_slopes=optional_address(op.alibi_slopes, "alibi_slopes", op.heads.num_heads),
            window=op.window or 0,
            soft_cap=float(op.soft_cap or 0.0),
            **_head_fields(op),
        )

    def _choose(self, op: ops.Choose) -> None:
        if op.vocab.out_features != op.widths[self._rank]:
            raise ValueError(f"this rank has {op.widths[self._rank]} columns, but a linear of {op.vocab.out_features}")
        self.native.add("choose", x=op.x, vocab=_native_linear(op.vocab), soft_cap=float(op.soft_cap or 0.0))

    def _shortlist(self, op: ops.Shortlist, held: HeldWidths) -> None:
        table = op.table
        self.native.add(
            "shortlist",
            x=op.x,
            scored=op.scored,
            scored_size=op.scores.in_features,
            scores=_native_linear(op.scores),
            num_ids=op.scores.out_features,
            table=0 if table is None else table.data_ptr(),
            dtype=_native.DType.float32 if table is None else native_dtype(table, "table"),
            size=held[op.x],
            num_candidates=op.num_candidates,
            place=self._num_kept,
            soft_cap=float(op.soft_cap or 0.0),
        )


# What weights are.


def _norm_fields(op: ops.Norm | ops.AddNorm, size: int) -> dict[str, _native.OpField]:
    return {
        "is_rms": op.kind == "rms",
        "scale": optional_address(op.weights.scale, "scale", size),
        "shift": optional_address(op.weights.shift, "shift", size),
        "eps": float(op.eps),
        "size": size,
    }


def _native_linear(linear: Linear) -> _native.AnyLinear:
    if not isinstance(linear, NativeLinear):
        raise ValueError(f"{type(linear).__name__} is no linear of the CPU's kernels")
    return linear.native


def _checked_rows(table: torch.Tensor) -> int:
    """How many there are."""
    check(table, "table", table.dtype, None, None)
    return len(table)


def _head_fields(op: ops.RotateStore | ops.Attend) -> dict[str, _native.OpField]:
    return {
        "num_heads": op.heads.num_heads,
        "num_kv_heads": op.heads.num_kv_heads,
        "head_dim": op.heads.head_dim,
    }


def _activation(name: str) -> _native.Activation:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]
