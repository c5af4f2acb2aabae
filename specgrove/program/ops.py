"""What a pass consists of: frozen ops over numbered buffers. A ``Program`` is a flat list of them.

Made by ``build``, run by the backends (``torch_backend``, ``cpu``, ``cuda``). A new op is a class here and a method in each backend.
Every op works row by row: a row's bits don't depend on the rows beside it. An op says what it does, never how: what may be done in
one pass over memory, read ahead or captured is a backend's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.linears import Linear

Buffer: TypeAlias = int
"""The place of a buffer in ``Program.buffers``."""


@dataclass(frozen=True, slots=True)
class Embed:
    """``out = table[token_id - first_id] * scale``; zeros for ids that are other ranks'."""

    out: Buffer
    table: torch.Tensor  # [num_ids, size]
    scale: float
    first_id: int
    vocab_size: int
    """Of the whole model: larger ids are an error."""


@dataclass(frozen=True, slots=True)
class AddPositions:
    """``x += table[position]``: learned positions."""

    x: Buffer
    table: torch.Tensor  # [max_positions, size]


@dataclass(frozen=True, slots=True)
class Input:
    """``out`` = hidden states from outside: a pipeline's stage before this one, or another model's."""

    out: Buffer
    width: int
    """Numbers of a row."""


@dataclass(frozen=True, slots=True)
class Norm:
    """``out`` = the norm of ``x``; RMS (arXiv 1910.07467) or layer norm (arXiv 1607.06450)."""

    out: Buffer
    x: Buffer
    kind: Literal["rms", "layer"]
    weights: NormWeights
    eps: float


@dataclass(frozen=True, slots=True)
class AddNorm:
    """``x += delta``, then ``out`` = the norm of ``x``."""

    out: Buffer
    x: Buffer
    delta: Buffer
    kind: Literal["rms", "layer"]
    weights: NormWeights
    eps: float


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """The RMS norm of ``num_heads`` heads of ``x`` from ``first_head`` on, each by itself, in place."""

    x: Buffer
    scale: torch.Tensor  # float32 [head_dim]
    eps: float
    first_head: int
    num_heads: int
    head_dim: int
    width: int
    """Numbers of a row of ``x``."""


@dataclass(frozen=True, slots=True)
class Concat:
    """``out`` = the rows of ``parts`` side by side."""

    out: Buffer
    parts: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Multiply:
    """``out = x @ weight.T + bias``."""

    out: Buffer
    x: Buffer
    linear: Linear


@dataclass(frozen=True, slots=True)
class Clip:
    """The first ``width`` numbers of every row of ``x`` to plus and minus ``limit``, in place."""

    x: Buffer
    limit: float
    width: int


@dataclass(frozen=True, slots=True)
class RotateStore:
    """Rotates queries and keys by position (arXiv 2104.09864), writes keys and values to their rows' slots; ``queries`` stay.

    ``qkv`` has a row's query, key and value heads in this order.
    """

    queries: Buffer
    qkv: Buffer
    layer: int
    """Which pair of caches."""
    heads: AttentionHeads
    cos_sin: torch.Tensor | None  # float32 [max_positions, head_dim], cosines then sines; None: nothing is rotated


@dataclass(frozen=True, slots=True)
class Attend:
    """Tree attention: ``out`` = softmax attention of every row's queries over the keys that it sees."""

    out: Buffer
    queries: Buffer
    layer: int
    heads: AttentionHeads
    scale: float
    alibi_slopes: torch.Tensor | None
    """float32 ``[num_heads]``; adds ``slope * (key position - query position)`` (arXiv 2108.12409)."""
    window: int | None
    """A row sees its last so many keys, itself among them (arXiv 2004.05150); ``None``: all."""
    soft_cap: float | None = None
    """Scaled scores become ``soft_cap * tanh(score / soft_cap)`` before slopes are added (arXiv 2408.00118)."""


@dataclass(frozen=True, slots=True)
class Activate:
    """``out = activation(x)``; gated: ``activation(gate) * up`` of an ``x`` that holds gate, then up. ``size`` is that of ``out``."""

    out: Buffer
    x: Buffer
    activation: Activation
    is_gated: bool
    size: int


@dataclass(frozen=True, slots=True)
class Add:
    """``x += delta``."""

    x: Buffer
    delta: Buffer


@dataclass(frozen=True, slots=True)
class TakeRows:
    """From here on the rows are those that the pass asks for something, in these buffers; what the others hold is undefined."""

    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class SumRanks:
    """``x`` = the sum of it over the ranks of the tensor-parallel group, added in their order. Ends a segment."""

    x: Buffer
    width: int


@dataclass(frozen=True, slots=True)
class LoadUnit:
    """The weights of this unit are used from here on: where they are streamed they must be there now. Ends a segment."""

    unit: int


@dataclass(frozen=True, slots=True)
class KeepHidden:
    """Hands out the hidden states ``x`` as output number ``place``, float32 ``[rows, width]``."""

    x: Buffer
    place: int
    width: int


@dataclass(frozen=True, slots=True)
class Choose:
    """Hands out, for each row, the choice that follows or the logits ``x @ vocab.T``, as the pass asks.

    With several ranks ``vocab`` holds this rank's columns: the ranks' logits are put side by side, and there are no choices.
    """

    x: Buffer
    vocab: Linear
    widths: tuple[int, ...]
    """Columns of every rank."""
    soft_cap: float | None = None
    """Logits become ``soft_cap * tanh(logit / soft_cap)`` before anything is chosen (arXiv 2408.00118)."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Hands out, for each row, the ``num_candidates`` ids with the largest scores ``scored @ scores.T``, ties to the lower id.

    Their logits are ``x @ table[ids].T``, or without a table the scores. See ``Candidates``.
    """

    x: Buffer
    scored: Buffer
    """What the scores are made from: ``x``, or what a low-rank head makes of it."""
    scores: Linear
    table: torch.Tensor | None  # [num_ids, size of x]
    num_candidates: int
    token_ids: torch.Tensor | None = None  # int64 [num_ids], rising, on the CPU; None: they are the places
    soft_cap: float | None = None
    """As for ``Choose``, of logits and scores."""


Op: TypeAlias = (
    Embed | AddPositions | Input | Norm | AddNorm | HeadNorm | Concat | Multiply | Clip | RotateStore | Attend | Activate
    | Add | TakeRows | SumRanks | LoadUnit | KeepHidden | Choose | Shortlist
)  # fmt: skip


def reads(op: Op, buffer: Buffer) -> bool:
    """Whether an op reads what the buffer holds."""
    match op:
        case Embed() | Input() | LoadUnit():
            return False
        case AddNorm() | Add():
            return buffer in (op.x, op.delta)
        case Concat():
            return buffer in op.parts
        case RotateStore():
            return buffer == op.qkv
        case Attend():
            return buffer == op.queries
        case TakeRows():
            return buffer in op.buffers
        case Shortlist():
            return buffer in (op.x, op.scored)
    return buffer == op.x
