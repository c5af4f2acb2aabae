"""What the families read weights through: ``ShardReader`` takes this rank's part of every linear from a ``TensorSource``.

Sources are files (``specgrove.models.safetensors_checkpoint``, ``specgrove.models.formats``). They give one slice of one tensor at a
time, so that neither a file nor what other ranks hold is ever in memory; quantised weights stay quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.sharding import HeadShard, Shard, heads_of, part
from specgrove.models.spec import DecoderSpec
from specgrove.models.weights import LinearWeights, NormWeights, Weight

ALL = slice(None)


class TensorSource(Protocol):
    """Where weights come from, by their Hugging Face names."""

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """Rows of a floating-point tensor. Raises ``UnsupportedModelError`` that names what is missing."""
        ...

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """Part of a linear's weight, as it is stored."""
        ...


class Checkpoint(TensorSource, Protocol):
    """A source that is a file or a folder. A context manager.

    What was read of mapped files counts as this process's memory, so they are let go before the next weight is read, when the last one
    has been packed.
    """

    def names(self) -> Sequence[str]:
        """All tensors; a quantised weight is one."""
        ...

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of one of ``names``."""
        ...

    def release(self) -> None:
        """Lets go of the files; they are read again when they are needed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Where a checkpoint keeps its heads: the tensor, and which block of ``head_dim`` rows of it, for every head in order."""

    q: Sequence[tuple[str, int]]
    k: Sequence[tuple[str, int]]
    v: Sequence[tuple[str, int]]

    @staticmethod
    def separate(q: str, k: str, v: str, spec: DecoderSpec) -> HeadRows:
        """Three linears."""
        kv = range(spec.num_kv_heads)
        return HeadRows([(q, i) for i in range(spec.num_heads)], [(k, i) for i in kv], [(v, i) for i in kv])

    @staticmethod
    def fused(name: str, spec: DecoderSpec) -> HeadRows:
        """One linear: all query heads, all key heads, all value heads."""
        num_q, num_kv = spec.num_heads, spec.num_kv_heads
        blocks = [(name, i) for i in range(num_q + 2 * num_kv)]
        return HeadRows(blocks[:num_q], blocks[num_q : num_q + num_kv], blocks[num_q + num_kv :])

    @staticmethod
    def grouped(name: str, spec: DecoderSpec) -> HeadRows:
        """One linear, by KV head: its query heads, its key, its value."""
        group = spec.num_heads // spec.num_kv_heads
        starts = [kv * (group + 2) for kv in range(spec.num_kv_heads)]
        return HeadRows(
            q=[(name, start + i) for start in starts for i in range(group)],
            k=[(name, start + group) for start in starts],
            v=[(name, start + group + 1) for start in starts],
        )


class ShardReader:
    """One rank's part of a source. Names of linears are given without ``.weight`` and ``.bias``, all names without ``prefix``."""

    def __init__(self, source: TensorSource, spec: DecoderSpec, shard: Shard, prefix: str = "") -> None:
        self._source = source
        self._spec = spec
        self._shard = shard
        self._prefix = prefix
        self.heads: HeadShard = heads_of(spec, shard)

    def has(self, name: str) -> bool:
        """Whether there is such a tensor; the name is whole here."""
        return self._prefix + name in self._source

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor; the name is whole here."""
        return self._source.tensor(self._prefix + name)

    def norm(self, name: str) -> NormWeights:
        """With its shift where there is one."""
        shift = self.tensor(name + ".bias") if self.has(name + ".bias") else None
        return NormWeights(self.tensor(name + ".weight"), shift)

    def qkv(self, rows: HeadRows) -> LinearWeights:
        """The rank's query, key and value heads."""
        heads, head_dim = self.heads, self._spec.head_dim
        wanted = [
            *rows.q[heads.first_q : heads.first_q + heads.num_q],
            *(rows.k[i] for i in heads.kv_heads),
            *(rows.v[i] for i in heads.kv_heads),
        ]
        return self._stacked(_runs(wanted, head_dim))

    def columns(self, *names: str) -> LinearWeights:
        """Linears that read the same input, divided by output and stacked: the MLP's first."""
        mlp = self._mlp_part()
        return self._stacked([(name, slice(mlp.start, mlp.stop)) for name in names])

    def attention_out(self, name: str) -> LinearWeights:
        """The linear after attention, divided by query heads."""
        first, num = self.heads.first_q, self.heads.num_q
        return self._row_parallel(name, slice(first * self._spec.head_dim, (first + num) * self._spec.head_dim))

    def down(self, name: str) -> LinearWeights:
        """The MLP's last, divided by input."""
        mlp = self._mlp_part()
        return self._row_parallel(name, slice(mlp.start, mlp.stop))

    def vocab_table(self, name: str) -> torch.Tensor:
        """The rank's rows of an embedding."""
        rows = part(self._spec.vocab_size, self._shard.tensor_rank, self._shard.tensor_size)
        return self._source.tensor(f"{self._prefix}{name}.weight", _slice(rows, self._spec.vocab_size))

    def vocab_head(self, name: str, tied: str) -> Weight:
        """The rank's rows of the head, which may have a tensor of its own (without ``prefix``) or be the embedding."""
        rows = _slice(
            part(self._spec.vocab_size, self._shard.tensor_rank, self._shard.tensor_size), self._spec.vocab_size
        )
        # A quantised checkpoint keeps a head of its own beside an embedding in full precision.
        is_own = not self._spec.has_tied_head or f"{name}.weight" in self._source
        return self._source.weight(f"{name}.weight" if is_own else f"{self._prefix}{tied}.weight", rows, ALL)

    def whole(self, name: str) -> Weight:
        """A linear that every rank holds."""
        return self._source.weight(f"{self._prefix}{name}.weight", ALL, ALL)

    def _mlp_part(self) -> range:
        # Whole blocks of 128, so that groups of quantised weights stay whole.
        return part(self._spec.intermediate_size, self._shard.tensor_rank, self._shard.tensor_size, 128)

    def _row_parallel(self, name: str, columns: slice) -> LinearWeights:
        columns = ALL if self._shard.tensor_size == 1 else columns
        weight = self._source.weight(f"{self._prefix}{name}.weight", ALL, columns)
        # The ranks' results are added up: one of them brings the bias.
        has_bias = self._shard.tensor_rank == 0 and self.has(name + ".bias")
        bias = self.tensor(name + ".bias") if has_bias else None
        return LinearWeights(weight, bias)

    def _stacked(self, parts: Sequence[tuple[str, slice]]) -> LinearWeights:
        weights = [self._source.weight(f"{self._prefix}{name}.weight", rows, ALL) for name, rows in parts]
        has_bias = any(self.has(name + ".bias") for name, _ in parts)
        biases = [self._source.tensor(f"{self._prefix}{name}.bias", rows) for name, rows in parts] if has_bias else []
        return LinearWeights(stack(weights), torch.cat(biases) if biases else None)


def stack(weights: Sequence[Weight]) -> Weight:
    """Weights one below the other; those that are quantised in different ways are dequantised."""
    if len(weights) == 1:
        return weights[0]
    plain = [weight for weight in weights if isinstance(weight, torch.Tensor)]
    if len(plain) == len(weights):
        return torch.cat(plain)
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    first = quantized[0]
    if len(quantized) != len(weights) or any(
        (w.bits, w.group_size, w.mins is None) != (first.bits, first.group_size, first.mins is None) for w in quantized
    ):
        return torch.cat([w.float() if isinstance(w, torch.Tensor) else w.dequantized() for w in weights])
    mins = [weight.mins for weight in quantized if weight.mins is not None]
    return QuantizedWeight(
        codes=torch.cat([weight.codes for weight in quantized]),
        scales=torch.cat([weight.scales for weight in quantized]),
        mins=torch.cat(mins) if mins else None,
        bits=first.bits,
    )


def _runs(blocks: Sequence[tuple[str, int]], block_size: int) -> list[tuple[str, slice]]:
    """Blocks that follow one another become one slice."""
    runs: list[tuple[str, slice]] = []
    for name, block in blocks:
        start = block * block_size
        if runs and runs[-1][0] == name and runs[-1][1].stop == start:
            runs[-1] = (name, slice(runs[-1][1].start, start + block_size))
        else:
            runs.append((name, slice(start, start + block_size)))
    return runs


def _slice(rows: range, total: int) -> slice:
    return ALL if len(rows) == total else slice(rows.start, rows.stop)
