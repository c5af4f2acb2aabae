"""The ops of a program that is being built, with its buffers' names and widths and its weights from a store. Used by ``build`` alone."""

from __future__ import annotations

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import LinearWeights, NormWeights
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.linears import Linear
from specgrove.program.op import Buffer, Op
from specgrove.program.ops import AddNorm, LoadUnit, Multiply, Norm, SumRanks
from specgrove.program.output_ops import KeepHidden
from specgrove.program.program import Program, buffers_for
from specgrove.program.stores import WeightStore

# The buffers of every program. There are two for what attention or the MLP adds to the hidden states: a norm in place would be slow.
_NAMES = ("hidden", "normed", "added", "other", "wide", "queries", "inner")
HIDDEN, NORMED, ADDED, OTHER, WIDE, QUERIES, INNER = range(len(_NAMES))


class OpList:
    """Grows op by op. Buffers get as wide as the ops need them."""

    def __init__(self, spec: DecoderSpec, dtype: torch.dtype, store: WeightStore, tensor_size: int) -> None:
        self.dtype = dtype
        self._spec, self._store, self._tensor_size = spec, store, tensor_size
        self._ops: list[Op] = []
        self._num_kept = 0

    def program(self, heads: AttentionHeads, num_layers: int) -> Program:
        """All of it. Raises ``ValueError`` for ops that don't fit together."""
        inputs = [QUERIES, INNER]
        if self._spec.residual != "post_norm":  # else the norms are the hidden states too
            inputs.append(NORMED)
        buffers = buffers_for(self._ops, _NAMES, inputs, heads, num_layers)
        return Program(tuple(self._ops), buffers, heads, num_layers, self._num_kept, self.dtype)

    def append(self, op: Op) -> None:
        """The next one."""
        self._ops.append(op)

    def norm(self, out: Buffer, x: Buffer, weights: NormWeights) -> None:
        """The spec's kind of norm."""
        self.append(Norm(out, x, self._spec.norm, self._stored(weights), self._spec.norm_eps))

    def add_norm(self, out: Buffer, x: Buffer, delta: Buffer, weights: NormWeights) -> None:
        """The same of ``x += delta``."""
        self.append(AddNorm(out, x, delta, self._spec.norm, self._stored(weights), self._spec.norm_eps))

    def multiply(self, out: Buffer, x: Buffer, weights: LinearWeights) -> None:
        """By a linear."""
        self.append(Multiply(out, x, self.linear(weights)))

    def sum_ranks(self, x: Buffer) -> None:
        """Where there are several."""
        if self._tensor_size > 1:
            self.append(SumRanks(x))

    def keep(self, x: Buffer) -> None:
        """Hidden states are handed out."""
        self.append(KeepHidden(x, self._num_kept, self._spec.hidden_size))
        self._num_kept += 1

    def begin_unit(self, unit: int) -> None:
        """Where units are streamed."""
        if self._store.is_streamed:
            self.append(LoadUnit(unit))

    def linear(self, weights: LinearWeights) -> Linear:
        """As the store has it."""
        return self._store.linear(weights.weight, weights.bias, self.dtype)

    def table(self, rows: torch.Tensor) -> torch.Tensor:
        """As the store has it."""
        return self._store.table(rows, self.dtype)

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """As the store has it."""
        return self._store.vector(values)

    def _stored(self, norm: NormWeights) -> NormWeights:
        return NormWeights(self.vector(norm.scale), None if norm.shift is None else self.vector(norm.shift))
