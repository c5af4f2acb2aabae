"""From what a decoder is, and its weights, to a ``Program``: the one place where residual forms, norms and families' flags are spelled out.

Called once, at loading. Weights are read unit by unit in the order of their use (embedding, each layer, head), so that a store can
pack one while the next is still on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    LinearWeights,
    MlpWeights,
    ModelWeights,
    NormWeights,
)
from specgrove.models.decoder.rotary import cos_sin_table
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.sharding import Shard, heads_of, part, vocab_part
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.program.linears import Linear
from specgrove.program.ops import (
    Activate,
    Add,
    AddNorm,
    AddPositions,
    Attend,
    Buffer,
    BufferSpec,
    Choose,
    Clip,
    Embed,
    HeadNorm,
    Input,
    KeepHidden,
    LoadUnit,
    Multiply,
    Norm,
    Op,
    Program,
    RotateStore,
    SumRanks,
    TakeRows,
)
from specgrove.program.stores import WeightStore

Progress = Callable[[int, int], None]

# The buffers of every program. There are two for what attention or the MLP adds to the hidden states: a norm in place would be slow.
_NAMES = ("hidden", "normed", "added", "other", "wide", "queries", "inner")
_HIDDEN, _NORMED, _ADDED, _OTHER, _WIDE, _QUERIES, _INNER = range(len(_NAMES))


def build(
    spec: DecoderSpec,
    weights: ModelWeights,
    dtype: torch.dtype,
    store: WeightStore,
    shard: Shard | None = None,
    keep_hidden: Collection[int] = (),
    progress: Progress = lambda done, total: None,
) -> Program:
    """The pass of a model, or of one rank's share of it. ``progress`` is told layers done and in all.

    ``keep_hidden``: the hidden states before these layers of the shard are handed out, by rising number; the number of layers stands
    for those after the last.
    """
    return _Builder(spec, dtype, store, shard or Shard.whole(spec), keep_hidden).program(weights, progress)


class _Builder:
    """The program so far."""

    def __init__(
        self, spec: DecoderSpec, dtype: torch.dtype, store: WeightStore, shard: Shard, keep_hidden: Collection[int]
    ) -> None:
        self._spec, self._dtype, self._store, self._shard = spec, dtype, store, shard
        self._keep_hidden = frozenset(keep_hidden)
        self._own = heads_of(spec, shard)
        self._heads = AttentionHeads(self._own.num_q, self._own.num_kv, spec.head_dim)
        self._alibi_slopes = self._own_slopes()
        self._rotary_tables: dict[RotarySpec, torch.Tensor] = {}
        self._ops: list[Op] = []
        self._num_kept = 0
        self._widths = [0] * len(_NAMES)  # of the buffers, as wide as was needed yet
        # What is still to be added to the hidden states: the next norm does it in the same pass over memory.
        self._delta: Buffer | None = None

    def program(self, weights: ModelWeights, progress: Progress) -> Program:
        shard = self._shard
        indices = range(shard.first_layer, shard.end_layer)
        if shard.is_first_stage:
            self._begin_unit(0)
            self._embed(weights.embedding())
        else:
            self._ops.append(Input(self._room(_HIDDEN, self._spec.hidden_size)))
        self._store.end_unit()
        for place, index in enumerate(indices):
            self._begin_unit(place + 1)
            self._keep_before(index)
            self._layer(place, weights.layer(index), self._spec.layers[index], is_last=place + 1 == len(indices))
            self._store.end_unit()
            progress(place + 1, len(indices))
        self._add_delta()
        self._keep_before(shard.end_layer)
        if shard.is_last_stage:
            self._begin_unit(len(indices) + 1)
            self._head(weights.head())
        else:
            self._keep()
        self._store.end_unit()
        self._store.end()
        sizes = enumerate(zip(self._widths, _NAMES, strict=True))
        buffers = tuple(BufferSpec(width, self._is_input(buffer), name) for buffer, (width, name) in sizes)
        return Program(tuple(self._ops), buffers, self._heads, len(indices), self._num_kept, self._dtype)

    # The ends.

    def _embed(self, weights: EmbeddingWeights) -> None:
        spec, store = self._spec, self._store
        table = store.table(weights.tokens, self._dtype)
        target = self._room(_HIDDEN if weights.projection is None else _OTHER, table.shape[1])
        # Rounded, as where Gemma was trained; float32 is hardly rounded.
        scale = torch.tensor(spec.embedding_scale, dtype=self._dtype).item()
        first_id = vocab_part(spec, self._shard).start
        self._ops.append(Embed(target, table, scale, first_id, spec.vocab_size))
        self._sum_ranks(target, table.shape[1])  # all but one are zeros: the sum is exact
        if weights.projection is not None:
            self._multiply(_HIDDEN, target, LinearWeights(weights.projection))
        if weights.positions is not None:
            self._ops.append(AddPositions(_HIDDEN, store.table(weights.positions, self._dtype)))

    def _head(self, weights: HeadWeights) -> None:
        if not self._takes_rows_early:
            self._ops.append(TakeRows((_HIDDEN,)))
        source = _HIDDEN
        if weights.norm is not None:
            self._norm(_NORMED, _HIDDEN, weights.norm)
            source = _NORMED
        if weights.projection is not None:
            self._multiply(_OTHER, source, LinearWeights(weights.projection))
            source = _OTHER
        size = self._shard.tensor_size
        widths = tuple(len(part(self._spec.vocab_size, rank, size)) for rank in range(size))
        self._ops.append(Choose(source, self._store.linear(weights.vocab, None, self._dtype), widths))

    # A layer. What it adds last stays in ``self._delta``.

    def _layer(self, place: int, weights: LayerWeights, layer: LayerSpec, *, is_last: bool) -> None:
        takes_rows = is_last and self._takes_rows_early
        if self._spec.residual == "post_norm":
            self._attention(place, weights.attention, layer, _HIDDEN, (_HIDDEN,) if takes_rows else ())
            self._sum_ranks(_ADDED, self._spec.hidden_size)
            self._add_norm(_NORMED, _HIDDEN, _ADDED, weights.attention_norm)
            self._mlp(_OTHER, _NORMED, weights.mlp)
            self._sum_ranks(_OTHER, self._spec.hidden_size)
            self._add_norm(_HIDDEN, _NORMED, _OTHER, _there(weights.mlp_norm))
            return
        if self._delta is None:
            self._norm(_NORMED, _HIDDEN, weights.attention_norm)
        else:
            self._add_norm(_NORMED, _HIDDEN, self._delta, weights.attention_norm)
        if self._spec.residual == "parallel":
            self._attention(place, weights.attention, layer, _NORMED, (_HIDDEN, _NORMED) if takes_rows else ())
            if weights.mlp_norm is not None:
                self._norm(_NORMED, _HIDDEN, weights.mlp_norm)
            self._mlp(_OTHER, _NORMED, weights.mlp)
            self._ops.append(Add(_ADDED, _OTHER))
            self._sum_ranks(_ADDED, self._spec.hidden_size)
            self._delta = _ADDED
            return
        self._attention(place, weights.attention, layer, _NORMED, (_HIDDEN,) if takes_rows else ())
        added = self._added(_ADDED, _OTHER, weights.attention_out_norm)
        self._add_norm(_NORMED, _HIDDEN, added, _there(weights.mlp_norm))
        free = _OTHER if added == _ADDED else _ADDED
        self._mlp(free, _NORMED, weights.mlp)
        self._delta = self._added(free, added, weights.mlp_out_norm)

    def _added(self, added: Buffer, free: Buffer, norm: NormWeights | None) -> Buffer:
        """Where the ranks' sum of what a part adds is, after its norm if it has one."""
        self._sum_ranks(added, self._spec.hidden_size)
        if norm is None:
            return added
        self._norm(free, added, norm)
        return free

    def _attention(
        self, place: int, weights: AttentionWeights, layer: LayerSpec, source: Buffer, wanted: tuple[Buffer, ...]
    ) -> None:
        """From ``source`` to ``_ADDED``. ``wanted``: only asked rows, in these buffers, go on once keys and values are stored."""
        spec, heads, store = self._spec, self._heads, self._store
        qkv_width = (heads.num_heads + 2 * heads.num_kv_heads) * spec.head_dim
        attended_width = heads.num_heads * spec.head_dim
        self._multiply(_WIDE, source, weights.qkv)
        if spec.qkv_clip is not None:
            self._ops.append(Clip(_WIDE, spec.qkv_clip, qkv_width))
        for scale, first_head, num_heads in (
            (weights.q_norm, 0, heads.num_heads),
            (weights.k_norm, heads.num_heads, heads.num_kv_heads),
        ):
            if scale is not None:
                norm = (store.vector(scale), spec.norm_eps, first_head, num_heads, spec.head_dim, qkv_width)
                self._ops.append(HeadNorm(_WIDE, *norm))
        self._room(_QUERIES, attended_width)
        self._room(_INNER, attended_width)
        self._ops.append(RotateStore(_QUERIES, _WIDE, place, heads, self._rotary_table(layer.rotary)))
        if wanted:
            self._ops.append(TakeRows((*wanted, _QUERIES)))
        attend = (place, heads, spec.attention_scale, self._alibi_slopes, layer.window)
        self._ops.append(Attend(_INNER, _QUERIES, *attend))
        self._multiply(_ADDED, _INNER, weights.out)

    def _mlp(self, target: Buffer, source: Buffer, weights: MlpWeights) -> None:
        self._multiply(_WIDE, source, weights.up)
        down = self._linear(weights.down)
        activation, is_gated = self._spec.activation, self._spec.is_gated
        self._ops.append(Activate(self._room(_INNER, down.in_features), _WIDE, activation, is_gated, down.in_features))
        self._ops.append(Multiply(self._room(target, down.out_features), _INNER, down))

    # Single ops.

    def _norm(self, out: Buffer, x: Buffer, weights: NormWeights) -> None:
        self._room(out, self._spec.hidden_size)
        self._ops.append(Norm(out, x, self._spec.norm, self._stored(weights), self._spec.norm_eps))

    def _add_norm(self, out: Buffer, x: Buffer, delta: Buffer, weights: NormWeights) -> None:
        self._room(out, self._spec.hidden_size)
        self._ops.append(AddNorm(out, x, delta, self._spec.norm, self._stored(weights), self._spec.norm_eps))

    def _multiply(self, out: Buffer, x: Buffer, weights: LinearWeights) -> None:
        linear = self._linear(weights)
        self._ops.append(Multiply(self._room(out, linear.out_features), x, linear))

    def _sum_ranks(self, x: Buffer, width: int) -> None:
        if self._shard.tensor_size > 1:
            self._ops.append(SumRanks(x, width))

    def _add_delta(self) -> None:
        if self._delta is not None:
            self._ops.append(Add(_HIDDEN, self._delta))
            self._delta = None

    def _keep_before(self, index: int) -> None:
        if index in self._keep_hidden:
            self._add_delta()
            self._keep()

    def _keep(self) -> None:
        self._ops.append(KeepHidden(_HIDDEN, self._num_kept, self._spec.hidden_size))
        self._num_kept += 1

    def _begin_unit(self, unit: int) -> None:
        if self._store.is_streamed:
            self._ops.append(LoadUnit(unit))

    # Weights and room.

    def _linear(self, weights: LinearWeights) -> Linear:
        return self._store.linear(weights.weight, weights.bias, self._dtype)

    def _stored(self, norm: NormWeights) -> NormWeights:
        shift = None if norm.shift is None else self._store.vector(norm.shift)
        return NormWeights(self._store.vector(norm.scale), shift)

    def _rotary_table(self, rotary: RotarySpec | None) -> torch.Tensor | None:
        if rotary is None:
            return None
        if rotary not in self._rotary_tables:
            table = cos_sin_table(rotary, self._spec.head_dim, self._spec.max_position_embeddings)
            self._rotary_tables[rotary] = self._store.vector(table)
        return self._rotary_tables[rotary]

    def _own_slopes(self) -> torch.Tensor | None:
        slopes = self._spec.alibi_slopes
        if slopes is None:
            return None
        own = self._own
        return self._store.vector(torch.tensor(slopes[own.first_q : own.first_q + own.num_q]))

    def _room(self, buffer: Buffer, width: int) -> Buffer:
        self._widths[buffer] = max(self._widths[buffer], width)
        return buffer

    def _is_input(self, buffer: Buffer) -> bool:
        if buffer == _NORMED:
            return self._spec.residual != "post_norm"  # else the norms are the hidden states too
        return buffer in (_QUERIES, _INNER)

    @property
    def _takes_rows_early(self) -> bool:
        """Whether the last layer computes keys and values only of rows that nobody asks anything of."""
        return (
            self._store.takes_rows_early
            and self._shard.is_last_stage
            and self._shard.end_layer not in self._keep_hidden
        )


def _there(norm: NormWeights | None) -> NormWeights:
    assert norm is not None, "only layers whose MLP stands beside attention can do without a norm before it"
    return norm
