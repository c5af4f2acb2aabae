"""From a program's ops to those of the native interpreter, once, at loading: field by field, whatever the op.

That ops fit together is seen by ``Program.widths``, so that nothing is read or written beyond its end in native code. Here are the kernels'
own limits. What an op's kernel reads of its fields, and what it does, is in csrc/cpu/ops.
"""

from __future__ import annotations

from specgrove.kernels import _native
from specgrove.kernels.linear import NativeLinear
from specgrove.program.linears import check_linears
from specgrove.program.native_fields import buffer_fields, native_fields
from specgrove.program.op import Buffer, Op, Widths, error_of
from specgrove.program.output_ops import Choose
from specgrove.program.program import Program
from specgrove.program.row_limits import RowLimits


def native_program(program: Program, rank: int = 0) -> _native.Program:
    """Raises ``ValueError`` for ops that don't fit together or that the kernels lack. The caller keeps ``program`` alive."""
    heads = program.heads
    if program.num_layers and (heads.num_heads % heads.num_kv_heads or heads.head_dim > _native.MAX_HEAD_DIM):
        raise ValueError(
            f"{heads.num_heads} heads over {heads.num_kv_heads} KV heads of size {heads.head_dim} are not supported"
        )
    limits = RowLimits.of(program)
    native = _native.Program(
        [buffer.width for buffer in program.buffers],
        vocab_size=limits.vocab_size,
        num_positions=limits.num_positions,
        has_caches=program.num_layers > 0,
    )
    for place, (op, widths) in enumerate(zip(program.ops, program.widths(), strict=True)):
        try:
            _add(native, op, widths, rank)
        except ValueError as error:
            raise error_of(place, op, error) from error
    return native


def _add(native: _native.Program, op: Op, widths: Widths, rank: int) -> None:
    if op.ends_segment:
        return
    check_linears(op.linears, NativeLinear, "the CPU's kernels")
    if isinstance(op, Choose) and op.vocab.out_features != op.widths[rank]:
        raise ValueError(f"this rank has {op.widths[rank]} columns, but a linear of {op.vocab.out_features}")

    def told(buffer: Buffer) -> _native.Buffer:
        return _native.Buffer(buffer, widths[buffer])

    fields = {
        name: value.native if isinstance(value, NativeLinear) else value for name, value in native_fields(op).items()
    }
    native.add(type(op).__name__, **buffer_fields(op, told), **fields)
