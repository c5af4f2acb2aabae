"""What a program's ops launch on a GPU: one small method per op. Made by ``CudaProgram``, which runs them one after the other.

Nothing that is launched waits for the device or depends on what lies there, so that graphs can capture it. Linears and attention read
numbers of the model's dtype, all else is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, assert_never

import torch

from specgrove.kernels import torch_ops
from specgrove.kernels.cuda import attention, elementwise, norms
from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.kernels.torch_linear import TorchLinear
from specgrove.kernels.torch_shortlist import shortlist
from specgrove.program import ops
from specgrove.program.backend import KvCaches
from specgrove.program.held_widths import HeldWidths
from specgrove.program.linears import Linear
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

    def view(self, buffer: ops.Buffer, width: int) -> torch.Tensor:
        """``[num_rows, width]``."""
        return self.room.view(buffer, self.num_rows, width)


Launch: TypeAlias = Callable[[CudaPass], None]

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

    x: ops.Buffer
    width: int


CudaOp: TypeAlias = ops.Op | EmbedAtPositions | NormOfAsked | TakeBuffer


class Launches:
    """Makes them."""

    def __init__(self, group: TensorGroup, will_run: Callable[[int], None]) -> None:
        self._group, self._will_run = group, will_run

    def of(self, op: CudaOp, held: HeldWidths) -> Launch:
        """What runs an op; ``held``: what buffers hold when it begins."""
        match op:
            case ops.Embed():
                return partial(self._embed, op, None)
            case EmbedAtPositions():
                return partial(self._embed, op.embed, op.positions)
            case ops.AddPositions():
                return partial(self._add_positions, op)
            case ops.Input():
                return partial(self._take_in, op)
            case ops.Norm():
                return partial(self._norm, op, held[op.x])
            case NormOfAsked():
                return partial(self._norm_of_asked, op.norm, held[op.norm.x])
            case ops.AddNorm():
                return partial(self._add_norm, op, held[op.x])
            case ops.HeadNorm():
                return partial(self._head_norm, op)
            case ops.Concat():
                return partial(self._concat, op, [held[part] for part in op.parts])
            case ops.Multiply():
                return partial(self._multiply, op)
            case ops.Clip():
                return partial(self._clip, op)
            case ops.RotateStore():
                return partial(self._rotate_store, op)
            case ops.Attend():
                return partial(self._attend, op)
            case ops.Activate():
                return partial(self._activate, op)
            case ops.Add():
                return partial(self._add, op, held[op.x])
            case TakeBuffer():
                return partial(self._take_buffer, op)
            case ops.SumRanks():
                return partial(self._sum_ranks, op)
            case ops.LoadUnit():
                return partial(self._load_unit, op)
            case ops.KeepHidden():
                return partial(self._keep_hidden, op)
            case ops.Choose():
                return partial(self._choose, op)
            case ops.Shortlist():
                return partial(self._shortlist, op, held[op.x])
            case ops.TakeRows():
                raise ValueError("on a GPU rows are taken once")
            case _:
                assert_never(op)

    # The ends.

    def _embed(self, op: ops.Embed, learned: ops.AddPositions | None, run: CudaPass) -> None:
        out, ids = run.view(op.out, op.table.shape[1]), run.numbers.token_ids[: run.num_rows]
        table = None if learned is None else learned.table
        elementwise.embed(op.table, ids, out, op.scale, table, run.numbers.positions[: run.num_rows], op.first_id)

    def _add_positions(self, op: ops.AddPositions, run: CudaPass) -> None:
        x = run.view(op.x, op.table.shape[1])
        learned = torch.empty_like(x)
        elementwise.embed(op.table, run.numbers.positions[: run.num_rows], learned)
        x += learned

    def _take_in(self, op: ops.Input, run: CudaPass) -> None:
        assert run.hidden is not None, "it was checked"
        run.view(op.out, op.width).copy_(run.hidden)

    def _take_buffer(self, op: TakeBuffer, run: CudaPass) -> None:
        rows = run.numbers.asked_rows[: run.num_rows]
        run.view(op.x, op.width).copy_(run.room.all_rows(op.x, op.width).index_select(0, rows))

    def _keep_hidden(self, op: ops.KeepHidden, run: CudaPass) -> None:
        run.room.kept[op.place][: run.num_rows].copy_(run.view(op.x, op.width))

    def _choose(self, op: ops.Choose, run: CudaPass) -> None:
        logits, x = run.room.logits[: run.num_rows], run.view(op.x, op.vocab.in_features)
        is_whole = len(op.widths) == 1
        own = logits if is_whole else torch.empty(run.num_rows, op.vocab.out_features, device=logits.device)
        _product(op.vocab, x, own)
        torch_ops.soft_cap(own, op.soft_cap)
        if not is_whole:
            logits.copy_(self._group.concatenated(own, op.widths))

    def _shortlist(self, op: ops.Shortlist, size: int, run: CudaPass) -> None:
        shortlisted, n = run.room.shortlisted, run.num_rows
        scores = torch.empty(n, op.scores.out_features, device=shortlisted.logits.device)
        _product(op.scores, run.view(op.scored, op.scores.in_features), scores)
        states = None if op.table is None else run.view(op.x, size).float()
        places, logits, log_sum_exp = shortlist(scores, op.num_candidates, states, op.table, op.soft_cap)
        shortlisted.places[:n].copy_(places)
        shortlisted.logits[:n].copy_(logits)
        shortlisted.log_sum_exp[:n].copy_(log_sum_exp)

    # Norms.

    def _norm(self, op: ops.Norm, size: int, run: CudaPass) -> None:
        _normed(op, run.view(op.x, size), None, run.view(op.out, size), None)

    def _norm_of_asked(self, op: ops.Norm, size: int, run: CudaPass) -> None:
        rows = run.numbers.asked_rows[: run.num_rows]
        _normed(op, run.room.all_rows(op.x, size), None, run.view(op.out, size), rows)

    def _add_norm(self, op: ops.AddNorm, size: int, run: CudaPass) -> None:
        _normed(op, run.view(op.x, size), run.view(op.delta, size), run.view(op.out, size), None)

    def _head_norm(self, op: ops.HeadNorm, run: CudaPass) -> None:
        heads = (op.first_head, op.num_heads, op.head_dim)
        norms.head_rms_norm(run.view(op.x, op.width), op.scale, op.eps, *heads)

    # What is between them.

    def _concat(self, op: ops.Concat, widths: Sequence[int], run: CudaPass) -> None:
        columns = torch.split(run.view(op.out, sum(widths)), list(widths), dim=1)
        for part, width, place in zip(op.parts, widths, columns, strict=True):
            place.copy_(run.view(part, width))

    def _multiply(self, op: ops.Multiply, run: CudaPass) -> None:
        linear = op.linear
        _product(linear, run.view(op.x, linear.in_features), run.view(op.out, linear.out_features))

    def _clip(self, op: ops.Clip, run: CudaPass) -> None:
        run.view(op.x, op.width).clamp_(-op.limit, op.limit)

    def _rotate_store(self, op: ops.RotateStore, run: CudaPass) -> None:
        heads, numbers, n = op.heads, run.numbers, run.num_rows
        width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
        queries = run.view(op.queries, heads.num_heads * heads.head_dim).view(n, heads.num_heads, heads.head_dim)
        caches = (run.caches.keys[op.layer], run.caches.values[op.layer])
        places = (numbers.positions[:n], op.cos_sin, numbers.slots[:n])
        elementwise.rotate_and_store(run.view(op.qkv, width), *places, *caches, queries)

    def _attend(self, op: ops.Attend, run: CudaPass) -> None:
        heads, n = op.heads, run.num_rows
        width = heads.num_heads * heads.head_dim
        queries = run.view(op.queries, width).view(n, heads.num_heads, heads.head_dim)
        caches = (run.caches.keys[op.layer], run.caches.values[op.layer])
        plan, out = run.numbers.plan.of_rows(n), run.view(op.out, width)
        attention.tree_attention(queries, *caches, plan, op.scale, out, op.alibi_slopes, op.window, op.soft_cap)

    def _activate(self, op: ops.Activate, run: CudaPass) -> None:
        run_it = elementwise.gated if op.is_gated else elementwise.activate
        run_it(run.view(op.x, 2 * op.size if op.is_gated else op.size), op.activation, run.view(op.out, op.size))

    def _add(self, op: ops.Add, width: int, run: CudaPass) -> None:
        run.view(op.x, width).add_(run.view(op.delta, width))

    def _sum_ranks(self, op: ops.SumRanks, run: CudaPass) -> None:
        x = run.view(op.x, op.width)
        total = self._group.sum(x)
        if total is not x:
            x.copy_(total)

    def _load_unit(self, op: ops.LoadUnit, run: CudaPass) -> None:
        self._will_run(op.unit)


def _normed(
    op: ops.Norm | ops.AddNorm,
    x: torch.Tensor,
    delta: torch.Tensor | None,
    out: torch.Tensor,
    rows: torch.Tensor | None,
) -> None:
    scale, shift = op.weights.scale, op.weights.shift
    if op.kind == "rms":
        norms.rms_norm(x, delta, scale, op.eps, out, rows)
    else:
        norms.layer_norm(x, delta, scale, shift, op.eps, out, rows)


def _product(linear: Linear, x: torch.Tensor, out: torch.Tensor) -> None:
    """Weights that the kernel can't take, in groups of few inputs, are torch's."""
    if isinstance(linear, PackedDeviceLinear):
        linear(x, out)
        return
    assert isinstance(linear, TorchLinear), "it was checked"
    out.copy_(linear(x))
