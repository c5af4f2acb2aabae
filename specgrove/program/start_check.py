"""The check of the kernels for GPUs at a service's start, as a program of its own: the kernels', then that of ops by their own examples.

Started by ``specgrove.kernels.cuda.start_check``, which says why. Invariant: an op that has examples is compared, whatever it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import torch

from specgrove.kernels.cuda.backend import kernels_for, launch
from specgrove.kernels.cuda.start_check import check_kernels, compare, named
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import plain_rows
from specgrove.program import ops, output_ops
from specgrove.program.backend import KvCaches
from specgrove.program.native_fields import buffer_fields, native_fields
from specgrove.program.op import Buffer, Example, Op
from specgrove.program.program import BufferSpec, Program
from specgrove.program.tensor_group import OneRank
from specgrove.program.torch_backend import TorchProgram

_NUM_ROWS = 5


def kinds() -> Iterator[type[Op]]:
    """All kinds of ops."""
    for module in (ops, output_ops):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Op) and kind.__module__ == module.__name__:
                yield kind


def check_ops(dtype: torch.dtype, device: torch.device) -> None:
    """Compares each op that has examples and a kernel with torch; ``dtype`` is the model's. Raises ``KernelsWrongError``."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    has_kernel = kernels_for(device).has_kernel
    with torch.inference_mode():
        for kind in kinds():
            if has_kernel(kind.__name__):
                for example in kind.examples(random):
                    with named(kind.__name__, device):
                        inputs = {buffer: random(_NUM_ROWS, width) for buffer, width in example.inputs.items()}
                        _check(example, inputs, dtype, device)


def _check(example: Example, inputs: dict[Buffer, torch.Tensor], dtype: torch.dtype, device: torch.device) -> None:
    op = example.op
    begin = tuple(ops.Embed(buffer, rows, 1.0, 0, _NUM_ROWS) for buffer, rows in inputs.items())
    program = _program((*begin, op))
    widths = program.widths()[-1]
    held = {buffer: torch.empty(_NUM_ROWS, width, device=device) for buffer, width in widths.items()}
    held |= {buffer: held[buffer].to(dtype) for buffer in example.rounded}
    for buffer, rows in inputs.items():
        held[buffer].copy_(rows)
    launch(type(op).__name__, **native_fields(op), **buffer_fields(op, held.__getitem__))
    end = (output_ops.KeepHidden(buffer, place, widths[buffer]) for place, buffer in enumerate(op.written))
    in_torch = TorchProgram(_program((*program.ops, *end)), device, torch.float32, OneRank(), lambda unit: None)
    cache = torch.zeros(_NUM_ROWS, 1, 1, device=device)
    for buffer, wanted in zip(
        op.written, in_torch.run(plain_rows(_NUM_ROWS), KvCaches((cache,), (cache,))).hidden, strict=True
    ):
        compare(f"the op {type(op).__name__}", held[buffer], wanted)


def _program(of: tuple[Op, ...]) -> Program:
    num_buffers = 1 + max(buffer for op in of for buffer in (*op.read, *op.written))
    num_kept = sum(isinstance(op, output_ops.KeepHidden) for op in of)
    return Program(of, (BufferSpec(1 << 16),) * num_buffers, AttentionHeads(1, 1, 1), 1, num_kept)


def main(arguments: list[str]) -> int:
    """Number of heads and of KV heads, head size, dtype, device. What is wrong is the last line of stderr."""
    num_heads, num_kv_heads, head_dim, dtype, name = arguments
    heads = AttentionHeads(int(num_heads), int(num_kv_heads), int(head_dim))
    device = torch.device(name)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        check_kernels(heads, getattr(torch, dtype), device)
        check_ops(getattr(torch, dtype), device)
    except RuntimeError as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # what a broken device still has to say would come last
