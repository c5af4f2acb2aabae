"""Which part of a model a rank holds: heads, MLP columns and vocabulary rows by tensor rank, layers by pipeline stage.

Pure arithmetic, used by the weight readers, the decoder and the memory plan. Invariant: the parts of all ranks cover everything
once, except that KV heads are repeated where there are more ranks than KV heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError

_GROUP_SIZES = (128, 64, 32)  # of quantised weights


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank of ``tensor_size`` in one stage of a pipeline that holds the layers ``first_layer`` to ``end_layer`` - 1."""

    tensor_rank: int
    tensor_size: int
    first_layer: int
    end_layer: int
    is_first_stage: bool = True
    is_last_stage: bool = True

    @staticmethod
    def whole(spec: DecoderSpec) -> Shard:
        """Everything on one rank."""
        return Shard(0, 1, 0, spec.num_layers)


@dataclass(frozen=True, slots=True)
class HeadShard:
    """The query heads of a rank, and for every local KV head which of the model's it is.

    ``num_q / num_kv`` query heads in a row share a local KV head.
    """

    first_q: int
    num_q: int
    kv_heads: tuple[int, ...]

    @property
    def num_kv(self) -> int:
        """Local KV heads."""
        return len(self.kv_heads)


def part(total: int, rank: int, size: int) -> range:
    """The ``rank``-th of ``size`` contiguous parts of ``range(total)``, as even as may be."""
    return range(total * rank // size, total * (rank + 1) // size)


def vocab_part(spec: DecoderSpec, shard: Shard) -> range:
    """A rank's rows of the vocabulary."""
    return part(spec.vocab_size, shard.tensor_rank, shard.tensor_size)


def mlp_part(spec: DecoderSpec, shard: Shard) -> range:
    """A rank's columns of the MLP: whole groups of quantised weights, as large as leave every rank its share.

    Raises ``UnsupportedModelError`` where there are more ranks than columns.
    """
    total, size = spec.intermediate_size, shard.tensor_size
    if size > total:
        raise UnsupportedModelError(
            f"--tensor-parallel {size}: so many ranks can't share an MLP of {total} columns: use at most {total}"
        )
    # The largest unit (checkpoints quantised in groups of 128 are common) whose parts are even, or differ by a small part of each.
    units = (unit for unit in _GROUP_SIZES if total % unit == 0)
    unit = next((unit for unit in units if total % (unit * size) == 0 or total // unit >= 8 * size), 1)
    own = part(total // unit, shard.tensor_rank, size)
    return range(own.start * unit, own.stop * unit)


def heads_of(spec: DecoderSpec, shard: Shard) -> HeadShard:
    """Whole groups of a KV head and its query heads, or parts of groups where there are more ranks than KV heads.

    Raises ``UnsupportedModelError`` where there are more ranks than query heads.
    """
    num_q, num_kv, size = spec.num_heads, spec.num_kv_heads, shard.tensor_size
    if size > num_q:
        raise UnsupportedModelError(
            f"--tensor-parallel {size}: so many ranks can't share {num_q} heads: use at most {num_q}"
        )
    group = num_q // num_kv
    if size <= num_kv:
        kv = part(num_kv, shard.tensor_rank, size)
        return HeadShard(kv.start * group, len(kv) * group, tuple(kv))
    queries = part(num_q, shard.tensor_rank, size)
    kv_of_queries = [q // group for q in queries]
    kv_heads = sorted(set(kv_of_queries))
    if len({kv_of_queries.count(kv) for kv in kv_heads}) > 1:  # ragged groups: every query head gets a copy of its own
        kv_heads = kv_of_queries
    return HeadShard(queries.start, len(queries), tuple(kv_heads))


def stage_layers(num_layers: int, stages: tuple[int, ...] | int) -> tuple[range, ...]:
    """The layers of every pipeline stage: so many stages as even as may be, or as many layers in each as named.

    Raises ``ValueError`` unless every stage has a layer and the sum is the model's.
    """
    if isinstance(stages, int) and not 1 <= stages <= num_layers:
        raise ValueError(f"--pipeline-parallel {stages}: must be 1 to {num_layers}, the model's layers")
    counts = [len(part(num_layers, i, stages)) for i in range(stages)] if isinstance(stages, int) else list(stages)
    if not counts or min(counts) < 1 or sum(counts) != num_layers:
        raise ValueError(
            f"--pipeline-parallel: {len(counts)} stages with {sum(counts)} layers together; the model has {num_layers}, "
            "and every stage needs one"
        )
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return tuple(range(end - count, end) for end, count in zip(ends, counts, strict=True))
