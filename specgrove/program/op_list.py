"""The ops of a program that is being built, with its buffers' names and widths and its weights from a store. Used by ``build`` alone."""

from __future__ import annotations

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import LinearWeights, NormWeights
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.linears import Linear
from specgrove.program.ops import AddNorm, Buffer, KeepHidden, LoadUnit, Multiply, Norm, Op, SumRanks
from specgrove.program.program import BufferSpec, Program
from specgrove.program.stores import WeightStore

# The buffers of every program. There are two for what attention or the MLP adds to the hidden states: a norm in place would be slow.
_NAMES = ("hidden", "normed", "added", "other", "wide", "queries", "inner")
HIDDEN, NORMED, ADDED, OTHER, WIDE, QUERIES, INNER = range(len(_NAMES))


class OpList:
    """Grows op by op. A buffer gets as wide as any op needs it."""

    def __init__(self, spec: DecoderSpec, dtype: torch.dtype, store: WeightStore, tensor_size: int) -> None:
        self.dtype = dtype
        self._spec, self._store, self._tensor_size = spec, store, tensor_size
        self._ops: list[Op] = []
        self._num_kept = 0
        self._widths = [0] * len(_NAMES)

    def program(self, heads: AttentionHeads, num_layers: int) -> Program:
        """All of it."""
        sizes = enumerate(zip(self._widths, _NAMES, strict=True))
        buffers = tuple(BufferSpec(width, self._is_input(buffer), name) for buffer, (width, name) in sizes)
        return Program(tuple(self._ops), buffers, heads, num_layers, self._num_kept, self.dtype)

    def append(self, op: Op) -> None:
        """The buffer that it writes to must have been given its width by ``room``."""
        self._ops.append(op)

    def room(self, buffer: Buffer, width: int) -> Buffer:
        """The buffer, at least so wide."""
        self._widths[buffer] = max(self._widths[buffer], width)
        return buffer

    def norm(self, out: Buffer, x: Buffer, weights: NormWeights) -> None:
        """The spec's kind of norm, of hidden states."""
        spec, out = self._spec, self.room(out, self._spec.hidden_size)
        self.append(Norm(out, x, spec.norm, self._stored(weights), spec.norm_eps))

    def add_norm(self, out: Buffer, x: Buffer, delta: Buffer, weights: NormWeights) -> None:
        """The same of ``x += delta``."""
        spec, out = self._spec, self.room(out, self._spec.hidden_size)
        self.append(AddNorm(out, x, delta, spec.norm, self._stored(weights), spec.norm_eps))

    def multiply(self, out: Buffer, x: Buffer, weights: LinearWeights) -> None:
        """By a linear."""
        linear = self.linear(weights)
        self.append(Multiply(self.room(out, linear.out_features), x, linear))

    def sum_ranks(self, x: Buffer, width: int) -> None:
        """Where there are several."""
        if self._tensor_size > 1:
            self.append(SumRanks(x, width))

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

    def _is_input(self, buffer: Buffer) -> bool:
        if buffer == NORMED:
            return self._spec.residual != "post_norm"  # else the norms are the hidden states too
        return buffer in (QUERIES, INNER)
