"""The ops of a pass: what each computes, what it must find, and how wide its results are. Those of its end are in ``output_ops``.

A ``Program`` is a flat list of them, made by ``build`` and run by the backends (``torch_backend``, ``cpu``, ``cuda``). Every op works by
rows: the bits of one don't depend on the rows beside it. An op says what it does, never how: what may be done in one pass over memory,
read ahead or captured is a backend's affair. A new op is a class here or there, and what it means in each backend: see docs/passes.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.linears import Linear
from specgrove.program.op import (
    Changed,
    Example,
    Held,
    OnHost,
    Op,
    Random,
    Read,
    Widths,
    Written,
    check_norm,
    check_shape,
)


@dataclass(frozen=True, slots=True)
class Embed(Op):
    """``out = table[token_id - first_id] * scale``; zeros for ids that are other ranks'."""

    is_of_all_rows: ClassVar[bool] = True
    out: Written
    table: torch.Tensor  # [num_ids, size]
    scale: float
    first_id: int
    vocab_size: OnHost[int]
    """Of the whole model: larger ids are an error."""

    def leaves(self, held: Held) -> Widths:
        return {self.out: self.table.shape[1]}

    def row_limits(self) -> Mapping[str, int]:
        return {"token_ids": self.vocab_size}


@dataclass(frozen=True, slots=True)
class AddPositions(Op):
    """``x += table[position]``: learned positions."""

    is_of_all_rows: ClassVar[bool] = True
    x: Changed
    table: torch.Tensor  # [max_positions, size]

    def leaves(self, held: Held) -> Widths:
        check_shape(self.table, "table", len(self.table), held[self.x])
        return {}

    def row_limits(self) -> Mapping[str, int]:
        return {"positions": len(self.table)}


@dataclass(frozen=True, slots=True)
class Input(Op):
    """``out`` = hidden states from outside: a pipeline's stage before this one, or another model's."""

    is_of_all_rows: ClassVar[bool] = True
    out: Written
    width: int
    """Numbers of a row."""

    def leaves(self, held: Held) -> Widths:
        return {self.out: self.width}


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """``out`` = the norm of ``x``; RMS (arXiv 1910.07467) or layer norm (arXiv 1607.06450)."""

    out: Written
    x: Read
    kind: Literal["rms", "layer"]
    weights: NormWeights
    eps: float

    def leaves(self, held: Held) -> Widths:
        check_norm(self.kind, self.weights, held[self.x])
        return {self.out: held[self.x]}


@dataclass(frozen=True, slots=True)
class AddNorm(Op):
    """``x += delta``, then ``out`` = the norm of ``x``."""

    out: Written
    x: Changed
    delta: Read
    kind: Literal["rms", "layer"]
    weights: NormWeights
    eps: float

    def leaves(self, held: Held) -> Widths:
        held.check(self.delta, held[self.x])
        check_norm(self.kind, self.weights, held[self.x])
        return {self.out: held[self.x]}


@dataclass(frozen=True, slots=True)
class HeadNorm(Op):
    """The RMS norm of ``num_heads`` heads of ``x`` from ``first_head`` on, each by itself, in place."""

    x: Changed
    scale: torch.Tensor  # float32 [head_dim]
    eps: float
    first_head: int
    num_heads: int
    head_dim: int

    def leaves(self, held: Held) -> Widths:
        check_shape(self.scale, "scale", self.head_dim)
        first, count, size, width = self.first_head, self.num_heads, self.head_dim, held[self.x]
        if min(first, count) < 0 or (first + count) * size > width:
            raise ValueError(f"{width} columns have no {count} heads of size {size} from head {first} on")
        return {}

    @classmethod
    def examples(cls, random: Random) -> Iterator[Example]:
        yield Example(cls(0, random(64), 1e-5, first_head=1, num_heads=3, head_dim=64), {0: 7 * 64})


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """``out`` = the rows of ``parts`` side by side."""

    out: Written
    parts: tuple[Read, ...]

    def leaves(self, held: Held) -> Widths:
        return {self.out: sum(held[part] for part in self.parts)}


@dataclass(frozen=True, slots=True)
class Multiply(Op):
    """``out = x @ weight.T + bias``."""

    out: Written
    x: Read
    linear: Linear

    def leaves(self, held: Held) -> Widths:
        held.check_inputs(self.x, self.linear.in_features)
        return {self.out: self.linear.out_features}


@dataclass(frozen=True, slots=True)
class Clip(Op):
    """``x`` to plus and minus ``limit``, in place."""

    x: Changed
    limit: float


@dataclass(frozen=True, slots=True)
class Scale(Op):
    """``x *= factor``."""

    x: Changed
    factor: float

    @classmethod
    def examples(cls, random: Random) -> Iterator[Example]:
        for rounded in ((), (0,)):
            yield Example(cls(0, 1.7), {0: 272}, rounded)


@dataclass(frozen=True, slots=True)
class RotateStore(Op):
    """Rotates queries and keys by position (arXiv 2104.09864), writes keys and values to their rows' slots; ``queries`` stay.

    ``qkv`` has a row's query, key and value heads in this order.
    """

    is_of_all_rows: ClassVar[bool] = True
    queries: Written
    qkv: Read
    layer: int
    """Which pair of caches."""
    heads: AttentionHeads
    cos_sin: torch.Tensor | None  # float32 [max_positions, head_dim], cosines then sines; None: nothing is rotated

    def leaves(self, held: Held) -> Widths:
        heads, size = self.heads, self.heads.head_dim
        held.check_cache(self.layer, heads)
        held.check(self.qkv, (heads.num_heads + 2 * heads.num_kv_heads) * size)
        if self.cos_sin is not None:
            check_shape(self.cos_sin, "cos_sin", len(self.cos_sin), size)
            if size % 2:
                raise ValueError(f"heads of size {size} can't be rotated: the size must be even")
        return {self.queries: heads.num_heads * size}

    def row_limits(self) -> Mapping[str, int]:
        return {} if self.cos_sin is None else {"positions": len(self.cos_sin)}


@dataclass(frozen=True, slots=True)
class Attend(Op):
    """Tree attention: ``out`` = softmax attention of every row's queries over the keys that it sees."""

    out: Written
    queries: Read
    layer: int
    heads: AttentionHeads
    scale: float
    alibi_slopes: torch.Tensor | None
    """float32 ``[num_heads]``; adds ``slope * (key position - query position)`` (arXiv 2108.12409)."""
    window: int | None
    """A row sees its last so many keys, itself among them (arXiv 2004.05150); ``None``: all."""
    soft_cap: float | None = None
    """Scaled scores become ``soft_cap * tanh(score / soft_cap)`` before slopes are added (arXiv 2408.00118)."""

    def leaves(self, held: Held) -> Widths:
        size = self.heads.num_heads * self.heads.head_dim
        held.check_cache(self.layer, self.heads)
        held.check(self.queries, size)
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        check_shape(self.alibi_slopes, "alibi_slopes", self.heads.num_heads)
        return {self.out: size}


@dataclass(frozen=True, slots=True)
class Activate(Op):
    """``out = activation(x)``; gated: ``activation(gate) * up`` of an ``x`` that holds gate, then up. ``size`` is that of ``out``."""

    out: Written
    x: Read
    activation: Activation
    is_gated: bool
    size: int

    def leaves(self, held: Held) -> Widths:
        held.check(self.x, 2 * self.size if self.is_gated else self.size)
        return {self.out: self.size}

    @classmethod
    def examples(cls, random: Random) -> Iterator[Example]:
        for activation in get_args(Activation):
            yield Example(cls(1, 0, activation, is_gated=True, size=136), {0: 272}, rounded=(1,))
            yield Example(cls(1, 0, activation, is_gated=False, size=272), {0: 272}, rounded=(1,))


@dataclass(frozen=True, slots=True)
class Add(Op):
    """``x += delta``."""

    x: Changed
    delta: Read

    def leaves(self, held: Held) -> Widths:
        held.check(self.delta, held[self.x])
        return {}


@dataclass(frozen=True, slots=True)
class SumRanks(Op):
    """``x`` = the sum of it over the ranks of the tensor-parallel group, added in their order. Ends a segment."""

    ends_segment: ClassVar[bool] = True
    x: Changed


@dataclass(frozen=True, slots=True)
class LoadUnit(Op):
    """The weights of this unit are used from here on: where they are streamed they must be there now. Ends a segment."""

    ends_segment: ClassVar[bool] = True
    unit: int
