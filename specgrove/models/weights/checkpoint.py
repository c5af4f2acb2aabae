"""What the families read weights through: ``ShardReader`` takes this rank's part of every linear from a ``TensorSource``.

Sources are files (``specgrove.models.weights.safetensors_checkpoint``, ``specgrove.models.weights.formats``). They give one slice of one
tensor at a time, so that neither a file nor what other ranks hold is ever in memory; quantised weights stay quantised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.family import Family
from specgrove.models.decoder.parameters import LinearWeights, ModelWeights, NormWeights, Weight
from specgrove.models.decoder.sharding import HeadShard, Shard, heads_of, mlp_part, vocab_part
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.finite import check_finite
from specgrove.models.weights.head_rows import HeadRows

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

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, or of a quantised weight by value. Raises ``UnsupportedModelError`` that names what is missing."""
        ...


class Checkpoint(TensorSource, Protocol):
    """A source that is a file or a folder. A context manager.

    What was read of mapped files counts as this process's memory, so they are let go before the next weight is read, when the last one
    has been packed.
    """

    def names(self) -> Sequence[str]:
        """All tensors; a quantised weight may be several."""
        ...

    def parts_of(self, name: str) -> Sequence[str]:
        """The tensors, by ``names``, that make up a tensor or weight. Raises ``UnsupportedModelError`` where its numbers mean nothing."""
        ...

    def release(self) -> None:
        """Lets go of the files; they are read again when they are needed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class ShardReader:
    """One rank's part of a source. Names of linears are given without ``.weight`` and ``.bias``, all names without ``prefix``.

    Raises ``UnsupportedModelError`` for a tensor whose shape is not what the spec says, and for one with NaN, infinity, or numbers that
    ``rounded_to`` doesn't have, which weights become.
    """

    def __init__(
        self,
        source: TensorSource,
        spec: DecoderSpec,
        shard: Shard,
        prefix: str = "",
        rounded_to: torch.dtype = torch.float32,
    ) -> None:
        self._source = source
        self._rounded_to = rounded_to
        self._spec = spec
        self._shard = shard
        self._prefix = prefix
        self.heads: HeadShard = heads_of(spec, shard)

    def has(self, name: str) -> bool:
        """Whether there is such a tensor; the name is whole here."""
        return self._prefix + name in self._source

    def require(self, name: str) -> None:
        """Raises ``UnsupportedModelError`` where there is no such tensor; the name is whole here."""
        self._source.shape_of(self._prefix + name)

    def norm(self, name: str, size: int | None = None) -> NormWeights:
        """With its shift where there is one; of ``size`` features, the hidden size if not given."""
        size = self._spec.hidden_size if size is None else size
        if not self._spec.has_norm_weights:
            return NormWeights(torch.ones(size), None)
        shift = self._vector(name + ".bias", size) if self.has(name + ".bias") else None
        return NormWeights(self._vector(name + ".weight", size), shift)

    def positions(self, name: str, offset: int = 0) -> torch.Tensor:
        """An embedding of positions, of which the first ``offset`` are left out."""
        spec, name = self._spec, f"{self._prefix}{name}.weight"
        self._check(name, (spec.max_position_embeddings + offset, spec.hidden_size))
        return self._table(name)[offset:]

    def qkv(self, rows: HeadRows) -> LinearWeights:
        """The rank's query, key and value heads."""
        heads, head_dim = self.heads, self._spec.head_dim
        num_blocks = Counter(name for name, _ in (*rows.q, *rows.k, *rows.v))
        wanted = [
            *rows.q[heads.first_q : heads.first_q + heads.num_q],
            *(rows.k[i] for i in heads.kv_heads),
            *(rows.v[i] for i in heads.kv_heads),
        ]
        return self._stacked(_runs(wanted, head_dim), {name: num * head_dim for name, num in num_blocks.items()})

    def columns(self, *names: str) -> LinearWeights:
        """Linears that read the same input, divided by output and stacked: the MLP's first."""
        mlp = self._mlp_part()
        parts = [(name, slice(mlp.start, mlp.stop)) for name in names]
        return self._stacked(parts, dict.fromkeys(names, self._spec.intermediate_size))

    def attention_out(self, name: str) -> LinearWeights:
        """The linear after attention, divided by query heads."""
        heads, head_dim = self.heads, self._spec.head_dim
        columns = range(heads.first_q * head_dim, (heads.first_q + heads.num_q) * head_dim)
        return self._row_parallel(name, columns, self._spec.num_heads * head_dim)

    def down(self, name: str) -> LinearWeights:
        """The MLP's last, divided by input."""
        return self._row_parallel(name, self._mlp_part(), self._spec.intermediate_size)

    def vocab_table(self, name: str) -> torch.Tensor:
        """The rank's rows of an embedding."""
        name = f"{self._prefix}{name}.weight"
        self._check(name, self._vocab_shape())
        return self._table(name, self._vocab_rows())

    def vocab_head(self, name: str, tied: str) -> Weight:
        """The rank's rows of the head, which may have a tensor of its own (without ``prefix``) or be the embedding."""
        # A quantised checkpoint keeps a head of its own beside an embedding in full precision.
        is_own = not self._spec.has_tied_head or f"{name}.weight" in self._source
        if is_own and f"{name}.weight" not in self._source:
            raise UnsupportedModelError(
                f"there is no tensor {name}.weight, though config.json says that the head is not the embedding: set "
                "tie_word_embeddings to true in it if they are one, else the checkpoint is not whole"
            )
        name = f"{name}.weight" if is_own else f"{self._prefix}{tied}.weight"
        self._check(name, self._vocab_shape())
        return self._weight(name, self._vocab_rows(), ALL)

    def whole(self, name: str, num_outputs: int, num_inputs: int) -> Weight:
        """A linear that every rank holds."""
        name = f"{self._prefix}{name}.weight"
        self._check(name, (num_outputs, num_inputs))
        return self._weight(name, ALL, ALL)

    def _mlp_part(self) -> range:
        return mlp_part(self._spec, self._shard)

    def _vocab_shape(self) -> tuple[int, int]:
        return self._spec.vocab_size, self._spec.embedding_size or self._spec.hidden_size

    def _vocab_rows(self) -> slice:
        return _slice(vocab_part(self._spec, self._shard), self._spec.vocab_size)

    def _tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        tensor = self._source.tensor(name, rows)
        check_finite(name, tensor)
        return tensor

    def _table(self, name: str, rows: slice = ALL) -> torch.Tensor:
        tensor = self._source.tensor(name, rows)
        check_finite(name, tensor, self._rounded_to)
        return tensor

    def _weight(self, name: str, rows: slice, columns: slice) -> Weight:
        weight = self._source.weight(name, rows, columns)
        check_finite(name, weight, self._rounded_to)
        return weight

    def _vector(self, name: str, size: int) -> torch.Tensor:
        self._check(self._prefix + name, (size,))
        return self._tensor(self._prefix + name)

    def _row_parallel(self, name: str, columns: range, num_inputs: int) -> LinearWeights:
        num_outputs, name = self._spec.hidden_size, self._prefix + name
        self._check(f"{name}.weight", (num_outputs, num_inputs))
        weight = self._weight(f"{name}.weight", ALL, _slice(columns, num_inputs))
        # The ranks' results are added up: one of them brings the bias.
        if self._shard.tensor_rank > 0 or f"{name}.bias" not in self._source:
            return LinearWeights(weight)
        self._check(f"{name}.bias", (num_outputs,))
        return LinearWeights(weight, self._tensor(f"{name}.bias"))

    def _stacked(self, parts: Sequence[tuple[str, slice]], nums_outputs: Mapping[str, int]) -> LinearWeights:
        has_bias = any(self.has(name + ".bias") for name, _ in parts)
        for name, num_outputs in nums_outputs.items():
            self._check(f"{self._prefix}{name}.weight", (num_outputs, self._spec.hidden_size))
            if has_bias:
                self._check(f"{self._prefix}{name}.bias", (num_outputs,))
        weights = [self._weight(f"{self._prefix}{name}.weight", rows, ALL) for name, rows in parts]
        biases = [self._tensor(f"{self._prefix}{name}.bias", rows) for name, rows in parts] if has_bias else []
        return LinearWeights(stack(weights), _joined(biases) if biases else None)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._source.shape_of(name)
        if found != shape:
            raise UnsupportedModelError(
                f"{name} has the shape {list(found)}, by config.json it should have {list(shape)}: "
                "the configuration and the weights are of different models"
            )


def read_weights(
    family: Family, source: TensorSource, spec: DecoderSpec, shard: Shard, rounded_to: torch.dtype = torch.float32
) -> ModelWeights:
    """A source's tensors under the decoder's names, one rank's part. ``rounded_to`` is what those become that are not quantised."""
    return family.weights_of(ShardReader(source, spec, shard, family.NAMES.base, rounded_to), spec)


def stack(weights: Sequence[Weight]) -> Weight:
    """Weights one below the other; those that are quantised in different ways are dequantised."""
    if len(weights) == 1:
        return weights[0]
    plain = [weight for weight in weights if isinstance(weight, torch.Tensor)]
    if len(plain) == len(weights):
        return _joined(plain)
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


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if all(
        tensor.is_meta for tensor in tensors
    ):  # without content: torch.cat would load hundreds of modules to find the shape
        num_rows = sum(tensor.shape[0] for tensor in tensors)
        return torch.empty((num_rows, *tensors[0].shape[1:]), device="meta")
    return torch.cat(list(tensors))


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
