"""Runs a program by torch, op by op: in float64 what the other backends are tested against, in float32 what runs where they can't.

The one interpreter that is short enough to say what every op means. Rows keep their bits, as in all backends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgrove.kernels import torch_ops
from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_linear import TorchLinear, TorchQuantizedLinear
from specgrove.kernels.torch_ops import KeyTable, tensor_of
from specgrove.kernels.torch_shortlist import shortlist
from specgrove.models.decoder.parameters import Weight
from specgrove.program import ops, output_ops
from specgrove.program.backend import Candidates, Executable, KvCaches, PassOutput, check_input
from specgrove.program.linears import Linear, check_linears
from specgrove.program.op import Buffer, Op
from specgrove.program.program import Program
from specgrove.program.row_limits import RowLimits
from specgrove.program.tensor_group import TensorGroup


class TorchWeights:
    """All on one device, for ``TorchProgram``; hidden states have ``dtype``: float32 or float64. See ``WeightStore``."""

    is_streamed = False
    takes_rows_early = False

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        self._dtype = dtype

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        linear = self.made_by_torch(weight, bias, dtype)
        linear.parts = tuple(part.to(self.device) for part in linear.parts)
        return linear

    def made_by_torch(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> TorchLinear:
        """With its parts anywhere."""
        bias = None if bias is None else self.vector(bias)
        if isinstance(weight, QuantizedWeight):
            return TorchQuantizedLinear(weight, bias, dtype)
        return TorchLinear(weight.to(dtype), bias)

    def table(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See ``WeightStore``."""
        return rows.to(dtype).contiguous().to(self.device)

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """See ``WeightStore``."""
        return values.float().contiguous().to(self.device)

    def end_unit(self) -> None:
        """See ``WeightStore``."""

    def end(self) -> None:
        """See ``WeightStore``."""

    def will_run(self, unit: int) -> None:
        """See ``WeightStore``."""

    def executable(self, program: Program, group: TensorGroup) -> Executable:
        """See ``WeightStore``."""
        return TorchProgram(program, self.device, self._dtype, group, self.will_run)


class TorchProgram:
    """See ``Executable``."""

    def __init__(
        self,
        program: Program,
        device: torch.device,
        dtype: torch.dtype,
        group: TensorGroup,
        will_run: Callable[[int], None],
    ) -> None:
        """Raises ``ValueError`` for ops that don't fit together, and for weights of another store."""
        program.widths()
        check_linears(program.linears(), TorchLinear, "torch")
        self.program, self.device, self.dtype = program, device, dtype
        self.group, self.will_run = group, will_run
        self._row_limits = RowLimits.of(program)

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """See ``Executable``: logits for all asked rows."""
        rows.check()
        check_input(self.program, rows.num_rows, hidden, self.dtype)
        self._row_limits.check(rows, caches)
        running = _Pass(self, _Rows.of(rows, self.device), caches, hidden)
        for op in self.program.ops:
            running.run(op)
        return running.output()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that a pass still has, on its device."""

    token_ids: torch.Tensor  # int64 [num_rows], as positions and slots
    positions: torch.Tensor
    slots: torch.Tensor
    keys: KeyTable
    asked: torch.Tensor  # int64 [num_asked], among them

    @classmethod
    def of(cls, rows: PassRows, device: torch.device) -> _Rows:
        arrays = (rows.token_ids, rows.positions, rows.slots)
        token_ids, positions, slots = (tensor_of(values).long().to(device) for values in arrays)
        return cls(token_ids, positions, slots, KeyTable.of(rows).to(device), tensor_of(rows.asked_rows).to(device))

    def taken(self) -> _Rows:
        """The asked ones."""
        asked = self.asked
        rest = (self.token_ids[asked], self.positions[asked], self.slots[asked], self.keys.taken(asked))
        return _Rows(*rest, torch.arange(len(asked), device=asked.device))


class _Pass:
    """One run of a program. A buffer is whatever tensor an op left there."""

    def __init__(self, executable: TorchProgram, rows: _Rows, caches: KvCaches, hidden: torch.Tensor | None) -> None:
        self._executable, self._caches, self._input = executable, caches, hidden
        self._rows = rows
        self._buffers: dict[Buffer, torch.Tensor] = {}
        self._is_over = False
        program, dtype, device = executable.program, executable.dtype, executable.device
        # What a pass that ends early hands out has no rows.
        self._kept = [torch.empty((0, kept.width), dtype=dtype, device=device) for kept in program.kept]
        self._logits = torch.empty((0, program.vocab_size))
        self._candidates: Candidates | None = None
        if (op := program.shortlist) is not None:
            self._candidates = shortlisted(op, *(torch.empty((0, 0), dtype=dtype, device=device) for _ in range(2)))

    def output(self) -> PassOutput:
        return PassOutput((), self._logits, tuple(self._kept), candidates=self._candidates)

    def run(self, op: Op) -> None:
        if self._is_over and not isinstance(op, ops.LoadUnit):  # units come in by turns all the same
            return
        buffers, rows = self._buffers, self._rows
        match op:
            case ops.Embed():
                buffers[op.out] = self._embed(op)
            case ops.AddPositions():
                buffers[op.x] += op.table.index_select(0, rows.positions)
            case ops.Input():
                assert self._input is not None, "it was checked"
                buffers[op.out] = self._input.clone()  # ops write to it
            case ops.Norm():
                buffers[op.out] = self._norm(op)
            case ops.AddNorm():
                buffers[op.x] += buffers[op.delta]
                buffers[op.out] = self._norm(op)
            case ops.HeadNorm():
                torch_ops.head_norm(buffers[op.x], op.scale, op.eps, op.first_head, op.num_heads, op.head_dim)
            case ops.Concat():
                buffers[op.out] = torch.cat([buffers[part] for part in op.parts], dim=1)
            case ops.Multiply():
                buffers[op.out] = _product(op.linear, buffers[op.x])
            case ops.Clip():
                buffers[op.x].clamp_(-op.limit, op.limit)
            case ops.Scale():
                buffers[op.x] *= op.factor
            case ops.RotateStore():
                k_cache, v_cache = self._caches.keys[op.layer], self._caches.values[op.layer]
                places = (rows.positions, op.cos_sin, rows.slots)
                queries = torch_ops.rotate_store(buffers[op.qkv], *places, k_cache, v_cache)
                buffers[op.queries] = queries.flatten(1)
            case ops.Attend():
                k_cache, v_cache = self._caches.keys[op.layer], self._caches.values[op.layer]
                seen = (k_cache, v_cache, rows.keys, op.scale, op.alibi_slopes, op.window, op.soft_cap)
                queries = buffers[op.queries].view(-1, op.heads.num_heads, op.heads.head_dim)
                buffers[op.out] = torch_ops.attend(queries, *seen)
            case ops.Activate():
                buffers[op.out] = torch_ops.activate(buffers[op.x], op.activation, is_gated=op.is_gated)
            case ops.Add():
                buffers[op.x] += buffers[op.delta]
            case output_ops.TakeRows():
                self._buffers = {buffer: buffers[buffer].index_select(0, rows.asked) for buffer in op.buffers}
                self._rows = rows.taken()
                self._is_over = len(rows.asked) == 0
            case ops.SumRanks():
                buffers[op.x] = self._executable.group.sum(buffers[op.x])
            case ops.LoadUnit():
                self._executable.will_run(op.unit)
            case output_ops.KeepHidden():
                self._kept[op.place] = buffers[op.x].clone()
            case output_ops.Choose():
                own = _product(op.vocab, buffers[op.x])
                torch_ops.soft_cap(own, op.soft_cap)
                self._logits = self._executable.group.concatenated(own, op.widths).cpu()
            case output_ops.Shortlist():
                scores = _product(op.scores, buffers[op.scored])
                self._candidates = shortlisted(op, scores, buffers[op.x])
            case _:
                raise NotImplementedError(f"torch has no op {type(op).__name__}: it needs a case here")

    def _embed(self, op: ops.Embed) -> torch.Tensor:
        ids = self._rows.token_ids - op.first_id
        is_own = (ids >= 0) & (ids < len(op.table))
        found = op.table.index_select(0, torch.where(is_own, ids, 0)).to(self._executable.dtype)
        found.masked_fill_(~is_own[:, None], 0.0)
        return found if op.scale == 1.0 else found.mul_(op.scale)

    def _norm(self, op: ops.Norm | ops.AddNorm) -> torch.Tensor:
        return torch_ops.norm(self._buffers[op.x], op.kind, op.weights.scale, op.weights.shift, op.eps)


def _product(linear: Linear, x: torch.Tensor) -> torch.Tensor:
    assert isinstance(linear, TorchLinear), "it was checked"
    return linear(x)


def shortlisted(op: output_ops.Shortlist, scores: torch.Tensor, x: torch.Tensor) -> Candidates:
    """The candidates of rows ``x`` with these scores, found by torch."""
    states = None if op.table is None else x
    places, logits, log_sum_exp = shortlist(scores, op.num_candidates, states, op.table, op.soft_cap)
    return Candidates.at(op, places.cpu(), logits.cpu(), log_sum_exp.cpu())
