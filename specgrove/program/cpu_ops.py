"""From a program's ops to those of the native interpreter, once, at loading.

Follows how many numbers of a row every buffer holds from op to op, so that what doesn't fit together is named here and not read or
written beyond its end there. The native kinds and their fields are in csrc/cpu/program.cpp.
"""

from __future__ import annotations

from typing import assert_never

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype, optional_address
from specgrove.kernels.linear import NativeLinear
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.linears import Linear
from specgrove.program.ops import (
    Activate,
    Add,
    AddNorm,
    AddPositions,
    Attend,
    Buffer,
    Choose,
    Clip,
    Embed,
    HeadNorm,
    Input,
    KeepHidden,
    LoadUnit,
    Multiply,
    Norm,
    Op,
    Program,
    RotateStore,
    SumRanks,
    TakeRows,
)

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
    for place, op in enumerate(program.ops):
        try:
            translation.add(op)
        except ValueError as error:
            raise ValueError(f"op {place} of the program, {type(op).__name__}: {error}") from error
    return translation.native


class _Translation:
    """The native program so far."""

    def __init__(self, program: Program, rank: int) -> None:
        self.native = _native.Program([buffer.width for buffer in program.buffers])
        self._program, self._rank = program, rank
        self._held: dict[Buffer, int] = {}  # numbers of a row
        self._has_taken_rows = False

    def add(self, op: Op) -> None:
        match op:
            case Embed():
                self._embed(op)
            case AddPositions():
                num_positions = self._check_table(op.table, self._size(op.x))
                dtype, table = native_dtype(op.table, "table"), op.table.data_ptr()
                size = self._size(op.x)
                self.native.add(
                    "add_positions", x=op.x, table=table, dtype=dtype, num_positions=num_positions, size=size
                )
            case Input():
                size = self._program.buffers[op.out].width
                self.native.add("input", out=self._written(op.out, size), size=size)
            case Norm():
                norm = self._norm_fields(op.kind, op.weights, op.eps, self._size(op.x))
                self.native.add("norm", out=self._written(op.out, self._size(op.x)), x=op.x, **norm)
            case AddNorm():
                size = self._equal_sizes(op.x, op.delta)
                norm = self._norm_fields(op.kind, op.weights, op.eps, size)
                self.native.add("add_norm", out=self._written(op.out, size), x=op.x, delta=op.delta, **norm)
            case HeadNorm():
                self._head_norm(op)
            case Multiply():
                linear = self._native_linear(op.linear, self._size(op.x))
                out = self._written(op.out, op.linear.out_features, op.x)
                self.native.add("multiply", out=out, x=op.x, linear=linear)
            case Clip():
                self._check_size(op.x, op.width)
                self.native.add("clip", x=op.x, limit=float(op.limit), width=op.width)
            case RotateStore():
                self._rotate_store(op)
            case Attend():
                self._attend(op)
            case Activate():
                self._check_size(op.x, 2 * op.size if op.is_gated else op.size)
                out = self._written(op.out, op.size, op.x)
                activation = _activation(op.activation)
                self.native.add("activate", out=out, x=op.x, activation=activation, is_gated=op.is_gated, size=op.size)
            case Add():
                self.native.add("add", x=op.x, delta=op.delta, size=self._equal_sizes(op.x, op.delta))
            case TakeRows():
                self._held = {buffer: self._size(buffer) for buffer in op.buffers}
                self._has_taken_rows = True
                self.native.add("take_rows", buffers=list(self._held), sizes=list(self._held.values()))
            case KeepHidden():
                self._check_size(op.x, op.width)
                self.native.add("keep_hidden", x=op.x, place=op.place, width=op.width)
            case Choose():
                self._choose(op)
            case SumRanks():
                self._check_size(op.x, op.width)
            case LoadUnit():
                pass
            case _:
                assert_never(op)

    def _embed(self, op: Embed) -> None:
        num_ids, size = op.table.shape
        self.native.add(
            "embed",
            out=self._written(op.out, size),
            table=op.table.data_ptr(),
            dtype=native_dtype(op.table, "table"),
            first_id=op.first_id,
            num_ids=num_ids,
            size=size,
            scale=float(op.scale),
            vocab_size=op.vocab_size,
        )

    def _norm_fields(self, kind: str, weights: NormWeights, eps: float, size: int) -> dict[str, _native.OpField]:
        if weights.shift is not None and kind == "rms":
            raise ValueError("an RMS norm has no shift")
        return {
            "is_rms": kind == "rms",
            "scale": optional_address(weights.scale, "scale", size),
            "shift": optional_address(weights.shift, "shift", size),
            "eps": float(eps),
            "size": size,
        }

    def _head_norm(self, op: HeadNorm) -> None:
        self._check_size(op.x, op.width)
        if min(op.first_head, op.num_heads) < 0 or (op.first_head + op.num_heads) * op.head_dim > op.width:
            raise ValueError(
                f"{op.width} columns have no {op.num_heads} heads of size {op.head_dim} from head {op.first_head} on"
            )
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

    def _rotate_store(self, op: RotateStore) -> None:
        head_dim = op.heads.head_dim
        self._check_cache(op)
        self._check_size(op.qkv, (op.heads.num_heads + 2 * op.heads.num_kv_heads) * head_dim)
        num_positions = 0
        if op.cos_sin is not None:
            num_positions = self._check_table(op.cos_sin, head_dim, "cos_sin")
            if head_dim % 2:
                raise ValueError(f"heads of size {head_dim} can't be rotated: the size must be even")
        self.native.add(
            "rotate_store",
            queries=self._written(op.queries, op.heads.num_heads * head_dim, op.qkv),
            qkv=op.qkv,
            layer=op.layer,
            cos_sin=optional_address(op.cos_sin, "cos_sin", num_positions, head_dim),
            num_positions=num_positions,
            **_head_fields(op),
        )

    def _attend(self, op: Attend) -> None:
        size = op.heads.num_heads * op.heads.head_dim
        self._check_cache(op)
        self._check_size(op.queries, size)
        if op.window is not None and op.window < 1:
            raise ValueError(f"window must be at least 1, got {op.window}")
        self.native.add(
            "attend",
            out=self._written(op.out, size, op.queries),
            queries=op.queries,
            layer=op.layer,
            scale=float(op.scale),
            alibi_slopes=optional_address(op.alibi_slopes, "alibi_slopes", op.heads.num_heads),
            window=op.window or 0,
            soft_cap=float(op.soft_cap or 0.0),
            **_head_fields(op),
        )

    def _choose(self, op: Choose) -> None:
        if not self._has_taken_rows:
            raise ValueError("rows must be taken before")
        if op.vocab.out_features != op.widths[self._rank]:
            raise ValueError(f"this rank has {op.widths[self._rank]} columns, but a linear of {op.vocab.out_features}")
        vocab = self._native_linear(op.vocab, self._size(op.x))
        self.native.add("choose", x=op.x, vocab=vocab, soft_cap=float(op.soft_cap or 0.0))

    # What buffers hold.

    def _size(self, buffer: Buffer) -> int:
        if buffer not in self._held:
            raise ValueError(f"nothing has been written to buffer {buffer}")
        return self._held[buffer]

    def _check_size(self, buffer: Buffer, size: int) -> None:
        if self._size(buffer) != size:
            raise ValueError(f"buffer {buffer} must hold {size} numbers of a row, but holds {self._size(buffer)}")

    def _equal_sizes(self, x: Buffer, delta: Buffer) -> int:
        self._check_size(delta, self._size(x))
        return self._size(x)

    def _written(self, buffer: Buffer, size: int, *read: Buffer) -> Buffer:
        """The buffer, once it is sure that it can hold this, and that it is none of those that are ``read`` meanwhile."""
        if not 0 <= buffer < len(self._program.buffers):
            raise ValueError(f"there is no buffer {buffer}")
        if buffer in read:
            raise ValueError(f"buffer {buffer} can't be read and written at the same time")
        width = self._program.buffers[buffer].width
        if size > width:
            raise ValueError(f"buffer {buffer} has room for {width} numbers of a row, not for {size}")
        self._held[buffer] = size
        return buffer

    # What weights are.

    def _native_linear(self, linear: Linear, size: int) -> _native.AnyLinear:
        if not isinstance(linear, NativeLinear):
            raise ValueError(f"{type(linear).__name__} is no linear of the CPU's kernels")
        if linear.in_features != size:
            raise ValueError(f"the linear must have {size} inputs, got {linear.in_features}")
        return linear.native

    def _check_table(self, table: torch.Tensor, size: int, name: str = "table") -> int:
        """Rows of it."""
        check(table, name, table.dtype, None, size)
        return len(table)

    def _check_cache(self, op: RotateStore | Attend) -> None:
        if not 0 <= op.layer < self._program.num_layers:
            raise ValueError(f"the program has caches of {self._program.num_layers} layers, not of layer {op.layer}")
        if op.heads != self._program.heads:
            raise ValueError(f"the program has caches for {self._program.heads}, not for {op.heads}")


def _head_fields(op: RotateStore | Attend) -> dict[str, _native.OpField]:
    return {
        "num_heads": op.heads.num_heads,
        "num_kv_heads": op.heads.num_kv_heads,
        "head_dim": op.heads.head_dim,
    }


def _activation(name: str) -> _native.Activation:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]
