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
from specgrove.program.keeping import keeping
from specgrove.program.op import Buffer
from specgrove.program.op_list import ADDED, HIDDEN, INNER, NORMED, OTHER, QUERIES, WIDE, OpList
from specgrove.program.ops import (
    Activate,
    Add,
    AddPositions,
    Attend,
    Clip,
    Embed,
    HeadNorm,
    Input,
    Multiply,
    RotateStore,
    Scale,
)
from specgrove.program.output_ops import Choose, TakeRows
from specgrove.program.program import Program
from specgrove.program.stores import WeightStore

Progress = Callable[[int, int], None]


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

    ``keep_hidden``: the hidden states before these of the shard's layers are handed out, by rising number, as by ``keeping``.
    """
    shard = shard or Shard.whole(spec)
    program = _Builder(spec, dtype, store, shard).program(weights, progress)
    if not keep_hidden:
        return program
    return keeping(program, [layer - shard.first_layer for layer in keep_hidden], spec.hidden_size)


class _Builder:
    """The program so far."""

    def __init__(self, spec: DecoderSpec, dtype: torch.dtype, store: WeightStore, shard: Shard) -> None:
        self._spec, self._store, self._shard = spec, store, shard
        self._own = heads_of(spec, shard)
        self._heads = AttentionHeads(self._own.num_q, self._own.num_kv, spec.head_dim)
        self._alibi_slopes = self._own_slopes()
        self._rotary_tables: dict[RotarySpec, torch.Tensor] = {}
        self._ops = OpList(spec, dtype, store, shard.tensor_size)
        # What is still to be added to the hidden states: the next norm does it in the same pass over memory.
        self._delta: Buffer | None = None

    def program(self, weights: ModelWeights, progress: Progress) -> Program:
        shard, ops = self._shard, self._ops
        indices = range(shard.first_layer, shard.end_layer)
        if shard.is_first_stage:
            ops.begin_unit(0)
            self._embed(weights.embedding())
        else:
            ops.append(Input(HIDDEN, self._spec.hidden_size))
        self._store.end_unit()
        for place, index in enumerate(indices):
            ops.begin_unit(place + 1)
            is_last = place + 1 == len(indices)
            add_layer = self._layer_of_form()
            add_layer(place, weights.layer(index), self._spec.layers[index], is_last and self._takes_rows_early)
            self._store.end_unit()
            progress(place + 1, len(indices))
        self._add_delta()
        if shard.is_last_stage:
            ops.begin_unit(len(indices) + 1)
            self._head(weights.head())
        else:
            ops.keep(HIDDEN)
        self._store.end_unit()
        self._store.end()
        return ops.program(self._heads, len(indices))

    # The ends.

    def _embed(self, weights: EmbeddingWeights) -> None:
        spec, ops = self._spec, self._ops
        table = ops.table(weights.tokens)
        target = HIDDEN if weights.projection is None else OTHER
        # Rounded, as where Gemma was trained; float32 is hardly rounded.
        scale = torch.tensor(spec.embedding_scale, dtype=ops.dtype).item()
        first_id = vocab_part(spec, self._shard).start
        ops.append(Embed(target, table, scale, first_id, spec.vocab_size))
        ops.sum_ranks(target)  # all but one are zeros: the sum is exact
        if weights.projection is not None:
            ops.multiply(HIDDEN, target, LinearWeights(weights.projection))
        if weights.positions is not None:
            ops.append(AddPositions(HIDDEN, ops.table(weights.positions)))

    def _head(self, weights: HeadWeights) -> None:
        ops = self._ops
        if not self._takes_rows_early:
            ops.append(TakeRows((HIDDEN,)))
        source = HIDDEN
        if weights.norm is not None:
            ops.norm(NORMED, HIDDEN, weights.norm)
            source = NORMED
        if weights.projection is not None:
            ops.multiply(OTHER, source, LinearWeights(weights.projection))
            source = OTHER
        if self._spec.logit_scale != 1.0:
            ops.append(Scale(source, self._spec.logit_scale))
        size = self._shard.tensor_size
        widths = tuple(len(part(self._spec.vocab_size, rank, size)) for rank in range(size))
        ops.append(Choose(source, ops.linear(LinearWeights(weights.vocab)), widths, self._spec.logit_soft_cap))

    # A layer, in one of three forms. ``takes_rows``: only asked rows go on once keys and values are stored.

    def _layer_of_form(self) -> Callable[[int, LayerWeights, LayerSpec, bool], None]:
        match self._spec.residual:
            case "pre_norm":
                return self._pre_norm_layer
            case "post_norm":
                return self._post_norm_layer
            case "parallel":
                return self._parallel_layer

    def _pre_norm_layer(self, place: int, weights: LayerWeights, layer: LayerSpec, takes_rows: bool) -> None:
        """Norms stand before attention and MLP, and with some families after them too."""
        self._norm_of_sum(weights.attention_norm)
        self._attention(place, weights.attention, layer, NORMED, (HIDDEN,) if takes_rows else ())
        added = self._summed(ADDED, OTHER, weights.attention_out_norm)
        self._ops.add_norm(NORMED, HIDDEN, added, _there(weights.mlp_norm))
        free = OTHER if added == ADDED else ADDED
        self._mlp(free, NORMED, weights.mlp)
        self._delta = self._summed(free, added, weights.mlp_out_norm)

    def _post_norm_layer(self, place: int, weights: LayerWeights, layer: LayerSpec, takes_rows: bool) -> None:
        """Norms follow the sums, and are the hidden states."""
        ops = self._ops
        self._attention(place, weights.attention, layer, HIDDEN, (HIDDEN,) if takes_rows else ())
        ops.sum_ranks(ADDED)
        ops.add_norm(NORMED, HIDDEN, ADDED, weights.attention_norm)
        self._mlp(OTHER, NORMED, weights.mlp)
        ops.sum_ranks(OTHER)
        ops.add_norm(HIDDEN, NORMED, OTHER, _there(weights.mlp_norm))

    def _parallel_layer(self, place: int, weights: LayerWeights, layer: LayerSpec, takes_rows: bool) -> None:
        """Attention and MLP read the same hidden states, by one norm or by one each, and are added together."""
        ops = self._ops
        self._norm_of_sum(weights.attention_norm)
        self._attention(place, weights.attention, layer, NORMED, (HIDDEN, NORMED) if takes_rows else ())
        if weights.mlp_norm is not None:
            ops.norm(NORMED, HIDDEN, weights.mlp_norm)
        self._mlp(OTHER, NORMED, weights.mlp)
        ops.append(Add(ADDED, OTHER))
        self._delta = self._summed(ADDED, OTHER, None)

    def _norm_of_sum(self, weights: NormWeights) -> None:
        """Of the hidden states with what is still to be added to them."""
        if self._delta is None:
            self._ops.norm(NORMED, HIDDEN, weights)
        else:
            self._ops.add_norm(NORMED, HIDDEN, self._delta, weights)

    def _summed(self, added: Buffer, free: Buffer, norm: NormWeights | None) -> Buffer:
        """Where the ranks' sum of what a part adds is, after its norm if it has one, and its factor."""
        self._ops.sum_ranks(added)
        if norm is not None:
            self._ops.norm(free, added, norm)
            added = free
        if self._spec.residual_scale != 1.0:
            self._ops.append(Scale(added, self._spec.residual_scale))
        return added

    def _attention(
        self, place: int, weights: AttentionWeights, layer: LayerSpec, source: Buffer, wanted: tuple[Buffer, ...]
    ) -> None:
        """From ``source`` to ``ADDED``. ``wanted``: only asked rows, in these buffers, go on once keys and values are stored."""
        spec, heads, ops = self._spec, self._heads, self._ops
        ops.multiply(WIDE, source, weights.qkv)
        if spec.qkv_clip is not None:
            ops.append(Clip(WIDE, spec.qkv_clip))
        for scale, first_head, num_heads in (
            (weights.q_norm, 0, heads.num_heads),
            (weights.k_norm, heads.num_heads, heads.num_kv_heads),
        ):
            if scale is not None:
                ops.append(HeadNorm(WIDE, ops.vector(scale), spec.norm_eps, first_head, num_heads, spec.head_dim))
        ops.append(RotateStore(QUERIES, WIDE, place, heads, self._rotary_table(layer.rotary)))
        if wanted:
            ops.append(TakeRows((*wanted, QUERIES)))
        attend = (place, heads, spec.attention_scale, self._alibi_slopes, layer.window, spec.attention_soft_cap)
        ops.append(Attend(INNER, QUERIES, *attend))
        ops.multiply(ADDED, INNER, weights.out)

    def _mlp(self, target: Buffer, source: Buffer, weights: MlpWeights) -> None:
        spec, ops = self._spec, self._ops
        ops.multiply(WIDE, source, weights.up)
        down = ops.linear(weights.down)
        ops.append(Activate(INNER, WIDE, spec.activation, spec.is_gated, down.in_features))
        ops.append(Multiply(target, INNER, down))

    # What comes out of the layers, and tables.

    def _add_delta(self) -> None:
        if self._delta is not None:
            self._ops.append(Add(HIDDEN, self._delta))
            self._delta = None

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

    @property
    def _takes_rows_early(self) -> bool:
        """Whether the last layer computes keys and values only of rows that nobody asks anything of."""
        return self._store.takes_rows_early and self._shard.is_last_stage


def _there(norm: NormWeights | None) -> NormWeights:
    assert norm is not None, "only layers whose MLP stands beside attention can do without a norm before it"
    return norm
