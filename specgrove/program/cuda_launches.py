"""What a program's ops launch on a GPU: the kernel of an op's name, or a function here. Made by ``CudaProgram``, which runs them in order.

Nothing that is launched waits for the device or depends on what lies there, so that graphs can capture it. Linears and attention read
numbers of the model's dtype, all else is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

from specgrove.kernels import torch_ops
from specgrove.kernels.cuda import attention
from specgrove.kernels.cuda.backend import kernels_for, launch
from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.kernels.torch_linear import TorchLinear
from specgrove.kernels.torch_shortlist import shortlist
from specgrove.program import ops, output_ops
from specgrove.program.backend import KvCaches
from specgrove.program.linears import Linear
from specgrove.program.native_fields import Fields, buffer_fields, native_fields
from specgrove.program.op import Buffer, Op, Widths
from specgrove.program.pass_numbers import PassNumbers
from specgrove.program.pass_room import PassRoom
from specgrove.program.tensor_group import TensorGroup


@dataclass(frozen=True, slots=True)
class CudaPass:
    """Where the launches of a pass read and write. Graphs that captured them do so at the same places."""

    numbers: PassNumbers
    room: PassRoom
    caches: KvCaches
    num_rows: int
    """Rows from here on: all of the pass, or after ``TakeRows`` the asked ones."""
    hidden: torch.Tensor | None = None
    """What ``Input`` takes."""

    def view(self, buffer: Buffer, width: int) -> torch.Tensor:
        """``[num_rows, width]``."""
        return self.room.view(buffer, self.num_rows, width)


Launch: TypeAlias = Callable[[CudaPass], object]

DEVICE_LINEARS = (TorchLinear, PackedDeviceLinear)
"""Those that can be launched."""


# What takes fewer launches than one an op.


@dataclass(frozen=True, slots=True)
class EmbedAtPositions:
    """``Embed`` and ``AddPositions`` of what it gives."""

    embed: ops.Embed
    positions: ops.AddPositions


@dataclass(frozen=True, slots=True)
class NormOfAsked:
    """``TakeRows`` and ``Norm`` of the rows taken."""

    norm: ops.Norm


@dataclass(frozen=True, slots=True)
class TakeBuffer:
    """``TakeRows`` of one buffer: the asked rows move to its beginning."""

    x: Buffer
    width: int


CudaOp: TypeAlias = Op | EmbedAtPositions | NormOfAsked | TakeBuffer


class Launches:
    """Makes them."""

    def __init__(self, group: TensorGroup, device: torch.device, will_run: Callable[[int], None]) -> None:
        self._group, self._will_run = group, will_run
        self._has_kernel: Callable[[str], bool] = kernels_for(device).has_kernel

    def of(self, op: CudaOp, widths: Widths) -> Launch:
        """What runs an op; ``widths``: what buffers hold for it. An op that has no case here is run by the kernel that has its name.

        Raises ``ValueError`` where there is none.
        """
        match op:
            case ops.Embed():
                return self._kernel(op, widths, _ids_and_positions)
            case EmbedAtPositions():
                table = op.positions.table
                return self._kernel(op.embed, widths, lambda run: {**_ids_and_positions(run), "position_table": table})
            case ops.AddPositions():
                return partial(_add_positions, op)
            case ops.Input():
                return partial(_take_in, op)
            case NormOfAsked():
                return self._kernel(op.norm, widths, partial(_rows_to_norm, op.norm.x, widths[op.norm.x]))
            case ops.Concat():
                return partial(_concat, op, [widths[part] for part in op.parts])
            case ops.Multiply():
                return partial(_multiply, op)
            case ops.Clip():
                return lambda run: run.view(op.x, widths[op.x]).clamp_(-op.limit, op.limit)
            case ops.RotateStore():
                return self._kernel(op, widths, partial(_places, op))
            case ops.Attend():
                return partial(_attend, op)
            case ops.Add():
                return lambda run: run.view(op.x, widths[op.x]).add_(run.view(op.delta, widths[op.x]))
            case TakeBuffer():
                return partial(_take_buffer, op)
            case ops.SumRanks():
                return partial(self._sum_ranks, op, widths[op.x])
            case ops.LoadUnit():
                return lambda run: self._will_run(op.unit)
            case output_ops.KeepHidden():
                return lambda run: run.room.kept[op.place][: run.num_rows].copy_(run.view(op.x, op.width))
            case output_ops.Choose():
                return partial(self._choose, op)
            case output_ops.Shortlist():
                return partial(_shortlist, op, widths[op.x])
            case output_ops.TakeRows():
                raise ValueError("on a GPU rows are taken once")
            case Op():
                return self._kernel(op, widths, lambda run: {})

    def _kernel(self, op: Op, widths: Widths, also: Callable[[CudaPass], Fields]) -> Launch:
        """Of the op's fields and others, which come in the place of those of the same name."""
        kernel, fields = type(op).__name__, native_fields(op)
        if not self._has_kernel(kernel):
            raise ValueError(f"the kernels for GPUs have no op {kernel}")

        def run_it(run: CudaPass) -> None:
            buffers = buffer_fields(op, lambda buffer: run.view(buffer, widths[buffer]))
            launch(kernel, **{**fields, **buffers, **also(run)})

        return run_it

    def _choose(self, op: output_ops.Choose, run: CudaPass) -> None:
        logits, x = run.room.logits[: run.num_rows], run.view(op.x, op.vocab.in_features)
        is_whole = len(op.widths) == 1
        own = logits if is_whole else torch.empty(run.num_rows, op.vocab.out_features, device=logits.device)
        _product(op.vocab, x, own)
        torch_ops.soft_cap(own, op.soft_cap)
        if not is_whole:
            logits.copy_(self._group.concatenated(own, op.widths))

    def _sum_ranks(self, op: ops.SumRanks, width: int, run: CudaPass) -> None:
        x = run.view(op.x, width)
        total = self._group.sum(x)
        if total is not x:
            x.copy_(total)


# What kernels read beside an op's fields.


def _ids_and_positions(run: CudaPass) -> Fields:
    n = run.num_rows
    return {"token_ids": run.numbers.token_ids[:n], "positions": run.numbers.positions[:n]}


def _rows_to_norm(x: Buffer, width: int, run: CudaPass) -> Fields:
    return {"x": run.room.all_rows(x, width), "rows": run.numbers.asked_rows[: run.num_rows]}


def _places(op: ops.RotateStore, run: CudaPass) -> Fields:
    numbers, caches, n = run.numbers, run.caches, run.num_rows
    found = {"k_cache": caches.keys[op.layer], "v_cache": caches.values[op.layer]}
    return {**found, "positions": numbers.positions[:n], "slots": numbers.slots[:n]}


# Ops that are torch's on a GPU too, or take more than fields.


def _add_positions(op: ops.AddPositions, run: CudaPass) -> None:
    x = run.view(op.x, op.table.shape[1])
    learned = torch.empty_like(x)
    launch("Embed", table=op.table, token_ids=run.numbers.positions[: run.num_rows], out=learned, scale=1.0, first_id=0)
    x += learned


def _take_in(op: ops.Input, run: CudaPass) -> None:
    assert run.hidden is not None, "it was checked"
    run.view(op.out, op.width).copy_(run.hidden)


def _take_buffer(op: TakeBuffer, run: CudaPass) -> None:
    rows = run.numbers.asked_rows[: run.num_rows]
    run.view(op.x, op.width).copy_(run.room.all_rows(op.x, op.width).index_select(0, rows))


def _concat(op: ops.Concat, widths: Sequence[int], run: CudaPass) -> None:
    columns = torch.split(run.view(op.out, sum(widths)), list(widths), dim=1)
    for part, width, place in zip(op.parts, widths, columns, strict=True):
        place.copy_(run.view(part, width))


def _multiply(op: ops.Multiply, run: CudaPass) -> None:
    linear = op.linear
    _product(linear, run.view(op.x, linear.in_features), run.view(op.out, linear.out_features))


def _attend(op: ops.Attend, run: CudaPass) -> None:
    heads, n = op.heads, run.num_rows
    width = heads.num_heads * heads.head_dim
    queries = run.view(op.queries, width).view(n, heads.num_heads, heads.head_dim)
    caches = (run.caches.keys[op.layer], run.caches.values[op.layer])
    plan, out = run.numbers.plan.of_rows(n), run.view(op.out, width)
    attention.tree_attention(queries, *caches, plan, op.scale, out, op.alibi_slopes, op.window, op.soft_cap)


def _shortlist(op: output_ops.Shortlist, size: int, run: CudaPass) -> None:
    shortlisted, n = run.room.shortlisted, run.num_rows
    scores = torch.empty(n, op.scores.out_features, device=shortlisted.logits.device)
    _product(op.scores, run.view(op.scored, op.scores.in_features), scores)
    states = None if op.table is None else run.view(op.x, size).float()
    places, logits, log_sum_exp = shortlist(scores, op.num_candidates, states, op.table, op.soft_cap)
    shortlisted.places[:n].copy_(places)
    shortlisted.logits[:n].copy_(logits)
    shortlisted.log_sum_exp[:n].copy_(log_sum_exp)


def _product(linear: Linear, x: torch.Tensor, out: torch.Tensor) -> None:
    """Weights that the kernel can't take, in groups of few inputs, are torch's."""
    if isinstance(linear, PackedDeviceLinear):
        linear(x, out)
        return
    assert isinstance(linear, TorchLinear), "it was checked"
    out.copy_(linear(x))
