"""From a hidden-state SSM's weights to two programs over one set of them, and one layer's cache: the pass that begins with the LLM's hidden
states, and the one that goes on with the layer's own.

Both take two inputs of a row, the embedding of its token and what is fed, and hand out a state to be fed back and candidates for the
next token, of asked rows. Where the flavours of published checkpoints differ is spelled out here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.hidden_state import FusedWeights, HiddenStateSpec, HiddenStateWeights
from specgrove.models.decoder.parameters import LayerWeights, LinearWeights, NormWeights
from specgrove.models.decoder.rotary import cos_sin_table
from specgrove.program.backend import KvCaches, PassOutput
from specgrove.program.cpu import CpuProgram
from specgrove.program.level_draft import DraftedLevels, LevelDraft
from specgrove.program.linears import Linear
from specgrove.program.op import Op
from specgrove.program.ops import (
    Activate,
    Add,
    AddNorm,
    Attend,
    Concat,
    Embed,
    HeadNorm,
    Input,
    Multiply,
    Norm,
    RotateStore,
)
from specgrove.program.output_ops import KeepHidden, Shortlist, TakeRows
from specgrove.program.program import Program, buffers_for
from specgrove.program.stores import MemoryWeights, WeightStore
from specgrove.program.tensor_group import OneRank

# Two names for a buffer whose first use is over when the second begins would save room; rows are few.
_NAMES = ("fed", "state", "embedded", "normed embedding", "normed", "both", "wide", "queries", "inner", "added", "out")
_FED, _STATE, _EMBEDDED, _NORMED_EMBEDDING, _NORMED, _BOTH, _WIDE, _QUERIES, _INNER, _ADDED, _OUT = range(len(_NAMES))
_INPUTS = (_NORMED_EMBEDDING, _BOTH, _QUERIES, _INNER)  # only linears, attention and Concat read them


@dataclass(frozen=True, slots=True)
class HiddenStatePrograms:
    """Over the same weights."""

    extend: Program
    """Takes the LLM's hidden states, ``num_taps * target_hidden_size`` numbers of a row: those of the token before the row's."""
    level: Program
    """Takes the states that either program handed out."""


class HiddenStateModel:
    """Ready to run, over caches of one layer. ``dtype`` is that of weights and caches; hidden states are float32."""

    num_layers = 1

    def __init__(
        self, spec: HiddenStateSpec, weights: HiddenStateWeights, dtype: torch.dtype, store: WeightStore | None = None
    ) -> None:
        """Raises ``ValueError`` for weights that don't fit the spec or together, and for a store whose weights are streamed."""
        store = store or MemoryWeights()
        self.spec, self.dtype, self.device = spec, dtype, store.device
        self.programs = build_hidden_state(spec, weights, dtype, store)
        self._extend, self._level = (
            store.executable(program, OneRank()) for program in (self.programs.extend, self.programs.level)
        )

    @property
    def heads(self) -> AttentionHeads:
        """Of its layer."""
        return self.programs.extend.heads

    def extend(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor) -> PassOutput:
        """A pass over rows whose fed states are the LLM's, see ``HiddenStatePrograms``; the rest as for ``Executable``."""
        return self._extend.run(rows, caches, hidden)

    def level(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor) -> PassOutput:
        """A pass over rows whose fed states are the model's own, of their parents."""
        return self._level.run(rows, caches, hidden)

    @property
    def drafts_levels(self) -> bool:
        """Whether ``draft_levels`` is there: on the CPU alone."""
        return isinstance(self._level, CpuProgram)

    def draft_levels(self, draft: LevelDraft, caches: KvCaches) -> DraftedLevels:
        """As many passes of ``level`` as a draft takes, in one call, before them one of ``extend`` where rows are unread."""
        assert isinstance(self._level, CpuProgram), "see drafts_levels"
        assert isinstance(self._extend, CpuProgram), "as the other"
        return self._level.draft_levels(draft, caches, self._extend)


def build_hidden_state(
    spec: HiddenStateSpec, weights: HiddenStateWeights, dtype: torch.dtype, store: WeightStore
) -> HiddenStatePrograms:
    """Raises ``ValueError`` for weights that don't fit the spec or together."""
    _check(spec, weights)
    if store.is_streamed:
        raise ValueError("the weights of a hidden-state SSM are used at every level: they can't be streamed")
    stored = _Stored(spec, weights, dtype, store)
    store.end_unit()
    store.end()
    return HiddenStatePrograms(stored.program(is_fed_back=False), stored.program(is_fed_back=True))


@dataclass(frozen=True, slots=True)
class _Fused:
    """As ``FusedWeights``, in the store."""

    states: Linear | None
    embedding: Linear | None


class _Stored:
    """The weights, each in the store once, and the programs that read them."""

    def __init__(
        self, spec: HiddenStateSpec, weights: HiddenStateWeights, dtype: torch.dtype, store: WeightStore
    ) -> None:
        self._spec, self._layer_spec, self._dtype, self._store = spec, spec.layer, dtype, store
        layer_spec, layer = spec.layer, weights.layer
        self._heads = AttentionHeads(layer_spec.num_heads, layer_spec.num_kv_heads, layer_spec.head_dim)
        self._embedding = store.table(weights.embedding, dtype)
        self._embedding_norm, self._hidden_norm = self._norm(weights.embedding_norm), self._norm(weights.hidden_norm)
        self._tap_norms = [store.vector(norm.scale) for norm in weights.tap_norms]
        self._taps_norm = None if weights.taps_norm is None else self._norm(weights.taps_norm)
        self._taps, self._fed_back = self._fused(weights.taps), self._fused(weights.fed_back)
        self._qkv, self._out = self._linear(layer.attention.qkv), self._linear(layer.attention.out)
        self._head_norms = [
            None if scale is None else store.vector(scale) for scale in (layer.attention.q_norm, layer.attention.k_norm)
        ]
        self._mlp_norm = self._norm(_mlp_norm_of(layer))
        self._up, self._down = self._linear(layer.mlp.up), self._linear(layer.mlp.down)
        self._last_norm = self._norm(weights.norm)
        rotary = layer_spec.layers[0].rotary
        self._cos_sin = None
        if rotary is not None:
            table = cos_sin_table(rotary, layer_spec.head_dim, layer_spec.max_position_embeddings)
            self._cos_sin = store.vector(table)
        self._token_ids = weights.token_ids
        self._down_to_rank, self._head_table = None, None
        if weights.candidates is None:
            self._scores = self._linear(LinearWeights(weights.head))
        else:
            self._down_to_rank = self._linear(LinearWeights(weights.candidates.down))
            self._scores = self._linear(LinearWeights(weights.candidates.up))
            is_tied = weights.head is weights.embedding
            self._head_table = self._embedding if is_tied else store.table(weights.head, dtype)

    def program(self, *, is_fed_back: bool) -> Program:
        """One of the two."""
        spec, hidden = self._spec, self._layer_spec.hidden_size
        fed = hidden if is_fed_back else spec.num_taps * spec.target_hidden_size
        ops = [
            *self._fuse(fed, is_fed_back=is_fed_back),
            *self._attention(),
            *self._mlp(),
            *self._hand_out(),
        ]
        buffers = buffers_for(ops, _NAMES, _INPUTS, self._heads, 1)
        return Program(tuple(ops), buffers, self._heads, 1, 1, self._dtype)

    def _fuse(self, fed: int, *, is_fed_back: bool) -> list[Op]:
        """Up to ``_BOTH``, which attention reads, and ``_STATE``, which it adds to."""
        eps, spec = self._layer_spec.norm_eps, self._spec
        fused = self._fed_back if is_fed_back else self._taps
        scale = torch.tensor(self._layer_spec.embedding_scale, dtype=self._dtype).item()
        ops: list[Op] = [
            Embed(_EMBEDDED, self._embedding, scale, 0, self._layer_spec.vocab_size),
            Norm(_NORMED_EMBEDDING, _EMBEDDED, "rms", self._embedding_norm, eps),
        ]
        source = _FED
        ops.append(Input(_FED if fused.states is not None else _STATE, fed))
        if not is_fed_back:
            size = spec.target_hidden_size
            ops += [HeadNorm(_FED, norm, eps, tap, 1, size) for tap, norm in enumerate(self._tap_norms)]
            if self._taps_norm is not None:
                source = _OUT
                ops.append(Norm(source, _FED, "rms", self._taps_norm, eps))
        if fused.states is not None:
            ops.append(Multiply(_STATE, source, fused.states))
        normed = Norm(_NORMED, _STATE, "rms", self._hidden_norm, eps)
        ops += [normed, Concat(_BOTH, (_NORMED_EMBEDDING, _NORMED))]
        if spec.residual_is_normed:
            ops.append(Concat(_STATE, (_NORMED,)))
        if fused.embedding is not None:
            ops += [Multiply(_ADDED, _NORMED_EMBEDDING, fused.embedding), Add(_STATE, _ADDED)]
        return ops

    def _attention(self) -> list[Op]:
        """From ``_BOTH`` to ``_ADDED``."""
        spec, heads = self._layer_spec, self._heads
        ops: list[Op] = [Multiply(_WIDE, _BOTH, self._qkv)]
        places = ((0, heads.num_heads), (heads.num_heads, heads.num_kv_heads))
        for scale, (first, count) in zip(self._head_norms, places, strict=True):
            if scale is not None:
                ops.append(HeadNorm(_WIDE, scale, spec.norm_eps, first, count, heads.head_dim))
        ops.append(RotateStore(_QUERIES, _WIDE, 0, heads, self._cos_sin))
        if self._store.takes_rows_early:
            ops.append(TakeRows((_STATE, _QUERIES)))
        window = spec.layers[0].window
        ops.append(Attend(_INNER, _QUERIES, 0, heads, spec.attention_scale, None, window))
        ops.append(Multiply(_ADDED, _INNER, self._out))
        return ops

    def _mlp(self) -> list[Op]:
        """What it adds to ``_STATE`` is in ``_ADDED``."""
        spec = self._layer_spec
        return [
            AddNorm(_NORMED, _STATE, _ADDED, "rms", self._mlp_norm, spec.norm_eps),
            Multiply(_WIDE, _NORMED, self._up),
            Activate(_INNER, _WIDE, spec.activation, spec.is_gated, self._down.in_features),
            Multiply(_ADDED, _INNER, self._down),
        ]

    def _hand_out(self) -> list[Op]:
        """The state to be fed back, and the candidates."""
        spec = self._spec
        ops: list[Op] = [Add(_STATE, _ADDED)]
        if not self._store.takes_rows_early:
            ops.append(TakeRows((_STATE,)))
        ops.append(Norm(_OUT, _STATE, "rms", self._last_norm, self._layer_spec.norm_eps))
        ops.append(KeepHidden(_OUT if spec.feeds_normed_state else _STATE, 0, self._layer_spec.hidden_size))
        scored = _OUT
        if self._down_to_rank is not None:
            scored = _WIDE
            ops.append(Multiply(scored, _OUT, self._down_to_rank))
        num_candidates = min(spec.num_candidates, self._scores.out_features)
        ops.append(
            Shortlist(
                _OUT,
                scored,
                self._scores,
                self._head_table,
                num_candidates,
                self._token_ids,
                self._layer_spec.logit_soft_cap,
            )
        )
        return ops

    def _linear(self, weights: LinearWeights) -> Linear:
        return self._store.linear(weights.weight, weights.bias, self._dtype)

    def _norm(self, norm: NormWeights) -> NormWeights:
        return NormWeights(self._store.vector(norm.scale))

    def _fused(self, weights: FusedWeights) -> _Fused:
        states, embedding = (
            None if linear is None else self._linear(linear) for linear in (weights.states, weights.embedding)
        )
        return _Fused(states, embedding)


def _mlp_norm_of(layer: LayerWeights) -> NormWeights:
    if layer.mlp_norm is None:
        raise ValueError("a hidden-state SSM's layer needs a norm before its MLP (post_attention_norm)")
    return layer.mlp_norm


def _check(spec: HiddenStateSpec, weights: HiddenStateWeights) -> None:
    """What widths of buffers would not tell, or not in these words."""
    layer = spec.layer
    if layer.num_layers != 1 or layer.residual != "pre_norm" or layer.norm != "rms":
        raise ValueError("a hidden-state SSM has one layer, with RMS norms before attention and MLP")
    if layer.alibi_slopes is not None or layer.qkv_clip is not None or layer.attention_soft_cap is not None:
        raise ValueError("a hidden-state SSM's layer has no ALiBi slopes, no clipped queries and no soft-capped scores")
    if weights.tap_norms and len(weights.tap_norms) != spec.num_taps:
        raise ValueError(
            f"there must be a norm for each of the {spec.num_taps} taps, or none: got {len(weights.tap_norms)}"
        )
    if weights.taps.states is None:
        raise ValueError("the LLM's hidden states must be fused by a linear (fc)")
    if len(weights.embedding) != layer.vocab_size:
        raise ValueError(
            f"the embedding must have the LLM's {layer.vocab_size} token ids, got {len(weights.embedding)}"
        )
    num_ids = weights.num_ids
    if weights.token_ids is None:
        if num_ids != layer.vocab_size:
            raise ValueError(
                f"a head of {num_ids} ids must say which of the LLM's {layer.vocab_size} token ids they are"
            )
    elif (
        len(weights.token_ids) != num_ids
        or not (weights.token_ids.diff() > 0).all()
        or (num_ids and not 0 <= int(weights.token_ids[0]) <= int(weights.token_ids[-1]) < layer.vocab_size)
    ):
        raise ValueError(
            f"token_ids must be {num_ids} rising ids below {layer.vocab_size}, one for each row of the head"
        )
