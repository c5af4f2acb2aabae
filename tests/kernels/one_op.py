"""Single ops between tensors, as programs of one op: the CPU's kernels and their reference, torch in float64, run the same one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import PassRows, plain_rows
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.backend import Executable, KvCaches
from specgrove.program.cpu import CpuProgram
from specgrove.program.op import Buffer, Op
from specgrove.program.ops import (
    Activate,
    Add,
    AddNorm,
    AddPositions,
    Attend,
    Embed,
    HeadNorm,
    Norm,
    RotateStore,
    Scale,
)
from specgrove.program.output_ops import KeepHidden
from specgrove.program.program import BufferSpec, Program
from specgrove.program.tensor_group import OneRank
from specgrove.program.torch_backend import TorchProgram

Backend = Callable[[Program], Executable]


def on_cpu(program: Program) -> Executable:
    """What is tested."""
    return CpuProgram(program)


def in_float64(program: Program) -> Executable:
    """The reference; its outputs are float64."""
    return TorchProgram(program, torch.device("cpu"), torch.float64, OneRank(), lambda unit: None)


def in_float32(program: Program) -> Executable:
    """What must have the same bits, where an op rounds as it is written down."""
    return TorchProgram(program, torch.device("cpu"), torch.float32, OneRank(), lambda unit: None)


def run(
    ops: Sequence[Op],
    inputs: Mapping[Buffer, torch.Tensor],
    outputs: Mapping[Buffer, int],
    on: Backend = on_cpu,
    rows: PassRows | None = None,
    caches: KvCaches | None = None,
    heads: AttentionHeads | None = None,
) -> list[torch.Tensor]:
    """What is in the buffers of ``outputs``, so many numbers a row, once the ops have run on what ``inputs`` are put in buffers."""
    num_rows = len(next(iter(inputs.values())))
    if rows is None:
        rows = plain_rows(num_rows)
    rows = replace(rows, token_ids=array("q", range(num_rows)), asked_rows=array("q"), choices=[], known={})
    if caches is None or heads is None:
        heads, cache = AttentionHeads(1, 1, 1), torch.zeros(num_rows, 1, 1)
        caches = KvCaches((cache,), (cache,))
    widths = {buffer: tensor.shape[1] for buffer, tensor in inputs.items()} | outputs
    # An op's inputs are rows of a table: they come to its buffers as they are.
    begin = [Embed(buffer, tensor, 1.0, 0, num_rows) for buffer, tensor in inputs.items()]
    end = [KeepHidden(buffer, place, width) for place, (buffer, width) in enumerate(outputs.items())]
    buffers = tuple(BufferSpec(widths.get(buffer, 0)) for buffer in range(max(widths) + 1))
    program = Program((*begin, *ops, *end), buffers, heads, len(caches.keys), len(end), caches.keys[0].dtype)
    return list(on(program).run(rows, caches).hidden)


def norm(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None, kind: str = "rms", on: Backend = on_cpu
) -> torch.Tensor:
    """Of every row."""
    assert kind in ("rms", "layer")
    op = Norm(1, 0, kind, NormWeights(scale, shift), 1e-5)  # type: ignore[arg-type]
    return run([op], {0: x}, {1: x.shape[1]}, on)[0]


def add_norm(
    x: torch.Tensor,
    delta: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    kind: str = "rms",
    on: Backend = on_cpu,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of the sum, and the sum."""
    assert kind in ("rms", "layer")
    op = AddNorm(2, 0, 1, kind, NormWeights(scale, shift), 1e-5)  # type: ignore[arg-type]
    normed, total = run([op], {0: x, 1: delta}, {2: x.shape[1], 0: x.shape[1]}, on)
    return normed, total


def head_norm(
    x: torch.Tensor, scale: torch.Tensor, first_head: int, num_heads: int, head_dim: int, on: Backend = on_cpu
) -> torch.Tensor:
    """All of ``x``, with these heads normed."""
    width = x.shape[1]
    return run([HeadNorm(0, scale, 1e-6, first_head, num_heads, head_dim)], {0: x}, {0: width}, on)[0]


def add(x: torch.Tensor, delta: torch.Tensor, on: Backend = on_cpu) -> torch.Tensor:
    """The sum."""
    return run([Add(0, 1)], {0: x, 1: delta}, {0: x.shape[1]}, on)[0]


def scale(x: torch.Tensor, factor: float, on: Backend = on_cpu) -> torch.Tensor:
    """The product."""
    return run([Scale(0, factor)], {0: x}, {0: x.shape[1]}, on)[0]


def activate(x: torch.Tensor, activation: Activation, *, is_gated: bool = False, on: Backend = on_cpu) -> torch.Tensor:
    """Of every element, or of the first half times the second."""
    size = x.shape[1] // 2 if is_gated else x.shape[1]
    return run([Activate(1, 0, activation, is_gated, size)], {0: x}, {1: size}, on)[0]


def embed(
    table: torch.Tensor,
    token_ids: Sequence[int],
    scale: float = 1.0,
    first_id: int = 0,
    vocab_size: int | None = None,
    on: Backend = on_cpu,
) -> torch.Tensor:
    """Rows of ``table``."""
    size = table.shape[1]
    heads, cache = AttentionHeads(1, 1, 1), torch.zeros(len(token_ids), 1, 1)
    op = Embed(0, table, scale, first_id, vocab_size or len(table))
    program = Program((op, KeepHidden(0, 0, size)), (BufferSpec(size),), heads, 1, 1)
    rows = replace(plain_rows(len(token_ids)), token_ids=array("q", token_ids))
    return on(program).run(rows, KvCaches((cache,), (cache,))).hidden[0]


def add_positions(x: torch.Tensor, table: torch.Tensor, positions: Sequence[int], on: Backend = on_cpu) -> torch.Tensor:
    """Every row with the row of ``table`` that stands at its position added."""
    rows = replace(plain_rows(len(x)), positions=array("i", positions))
    return run([AddPositions(0, table)], {0: x}, {0: x.shape[1]}, on, rows)[0]


def rotate_store(
    qkv: torch.Tensor,
    positions: Sequence[int],
    cos_sin: torch.Tensor | None,
    slots: Sequence[int],
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    on: Backend = on_cpu,
) -> torch.Tensor:
    """The queries ``[num_rows, num_heads * head_dim]``; keys and values go to the caches."""
    _, num_kv_heads, head_dim = k_cache.shape
    heads = AttentionHeads(qkv.shape[1] // head_dim - 2 * num_kv_heads, num_kv_heads, head_dim)
    rows = replace(plain_rows(len(qkv)), positions=array("i", positions), slots=array("i", slots))
    op = RotateStore(1, 0, 0, heads, cos_sin)
    outputs = {1: heads.num_heads * head_dim}
    return run([op], {0: qkv}, outputs, on, rows, KvCaches((k_cache,), (v_cache,)), heads)[0]


def attend(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rows: PassRows,
    scale: float,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
    on: Backend = on_cpu,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """What ``queries`` ``[num_rows, num_heads, head_dim]`` see: ``[num_rows, num_heads * head_dim]``."""
    num_rows, num_heads, head_dim = queries.shape
    heads = AttentionHeads(num_heads, k_cache.shape[1], head_dim)
    op = Attend(1, 0, 0, heads, scale, alibi_slopes, window, soft_cap)
    flat, size = queries.reshape(num_rows, -1), num_heads * head_dim
    return run([op], {0: flat}, {1: size}, on, rows, KvCaches((k_cache,), (v_cache,)), heads)[0]
