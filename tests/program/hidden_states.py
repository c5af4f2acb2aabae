"""Tiny hidden-state SSMs of every flavour with random weights, and their formulas in plain torch, token by token."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.hidden_state import CandidateWeights, FusedWeights, HiddenStateSpec, HiddenStateWeights
from specgrove.models.decoder.parameters import AttentionWeights, LayerWeights, LinearWeights, MlpWeights, NormWeights
from specgrove.models.decoder.rotary import cos_sin_table
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.program.backend import KvCaches
from specgrove.program.hidden_state import HiddenStateModel
from specgrove.program.stores import WeightStore
from tests.program.tiny import Kind, weight

TARGET, NUM_TAPS, VOCAB_SIZE, RANK, NUM_CANDIDATES, NUM_SLOTS = 40, 2, 90, 16, 12, 40
OWN_IDS = torch.arange(0, VOCAB_SIZE, 3)
FLAVOURS: dict[str, dict[str, Any]] = {
    "ours": {"norms_taps": True, "feeds_normed_state": True, "adds_embedding": True, "maps_fed_back": True},
    "full head": {"has_low_rank": False},
    "EAGLE-3": {"has_low_rank": False, "has_own_ids": True},
    "EAGLE-3.1": {"norms_taps": True, "feeds_normed_state": True, "has_low_rank": False, "has_own_ids": True},
    "norm before residual": {"residual_is_normed": True, "norms_all_taps": True, "has_head_norms": True},
    "biases, window and soft cap": {"has_biases": True, "window": 3, "soft_cap": 2.0},
}


@dataclass(frozen=True)
class Tiny:
    """A spec with weights."""

    spec: HiddenStateSpec
    weights: HiddenStateWeights

    def model(self, dtype: torch.dtype, store: WeightStore | None = None) -> HiddenStateModel:
        """Ready to run."""
        return HiddenStateModel(self.spec, self.weights, dtype, store)


def tiny(flavour: str = "ours", kind: Kind = "float32", hidden: int = 48, head_dim: int = 12, seed: int = 3) -> Tiny:
    """Of one of ``FLAVOURS``; its linears are of a kind."""
    options = FLAVOURS[flavour]
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def linear(out_features: int, in_features: int) -> LinearWeights:
        bias = random(out_features) if options.get("has_biases") else None
        return LinearWeights(weight(kind, random(out_features, in_features) * in_features**-0.5), bias)

    def norm(size: int) -> NormWeights:
        return NormWeights(torch.rand(size, generator=generator) + 0.5)

    num_heads, num_kv_heads, inner = 4, 2, 64
    layer = DecoderSpec(
        architecture="Tiny",
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=64,
        layers=(LayerSpec(RotarySpec(theta=10000.0), options.get("window")),),
        norm="rms",
        norm_eps=1e-5,
        activation="silu",
        is_gated=True,
        residual="pre_norm",
        attention_scale=head_dim**-0.5,
        has_tied_head=False,
        embedding_scale=1.5,
        logit_soft_cap=options.get("soft_cap"),
    )
    own_ids = OWN_IDS if options.get("has_own_ids") else None
    num_ids = VOCAB_SIZE if own_ids is None else len(own_ids)
    embedding = random(VOCAB_SIZE, hidden)
    head = random(num_ids, hidden) if own_ids is not None else embedding
    has_head_norms = options.get("has_head_norms", False)
    low_rank = None
    if options.get("has_low_rank", True):
        up, _, down = torch.linalg.svd(head, full_matrices=False)
        down = down[:RANK]
        low_rank = CandidateWeights(weight(kind, down.contiguous()), weight(kind, head @ down.T))
        del up
    own = options.get("adds_embedding", False)
    weights = HiddenStateWeights(
        embedding=embedding,
        embedding_norm=norm(hidden),
        hidden_norm=norm(hidden),
        taps=FusedWeights(linear(hidden, NUM_TAPS * TARGET), linear(hidden, hidden) if own else None),
        layer=LayerWeights(
            attention_norm=norm(hidden),
            attention=AttentionWeights(
                linear((num_heads + 2 * num_kv_heads) * head_dim, 2 * hidden),
                linear(hidden, num_heads * head_dim),
                norm(head_dim).scale if has_head_norms else None,
                norm(head_dim).scale if has_head_norms else None,
            ),
            mlp=MlpWeights(linear(2 * inner, hidden), linear(hidden, inner)),
            mlp_norm=norm(hidden),
        ),
        norm=norm(hidden),
        head=head,
        fed_back=FusedWeights(linear(hidden, hidden), linear(hidden, hidden))
        if options.get("maps_fed_back")
        else FusedWeights(),
        tap_norms=tuple(norm(TARGET) for _ in range(NUM_TAPS)) if options.get("norms_taps") else (),
        taps_norm=norm(NUM_TAPS * TARGET) if options.get("norms_all_taps") else None,
        candidates=low_rank,
        token_ids=own_ids,
    )
    spec = HiddenStateSpec(
        layer,
        TARGET,
        NUM_TAPS,
        NUM_CANDIDATES,
        residual_is_normed=options.get("residual_is_normed", False),
        feeds_normed_state=options.get("feeds_normed_state", False),
    )
    return Tiny(spec, weights)


def caches(model: HiddenStateModel, dtype: torch.dtype) -> KvCaches:
    """Of zeros."""
    shape = (NUM_SLOTS, model.heads.num_kv_heads, model.heads.head_dim)
    keys, values = (torch.zeros(shape, dtype=dtype, device=model.device) for _ in range(2))
    return KvCaches((keys,), (values,))


def chain(token_ids: Sequence[int], start: int, asked: Sequence[int]) -> PassRows:
    """Rows of one sequence from position ``start`` on, which see all before them."""
    count, end = len(token_ids), start + len(token_ids)
    return PassRows(
        token_ids=array("q", token_ids),
        positions=array("i", range(start, end)),
        slots=array("i", range(start, end)),
        context_slots=array("i", range(end)),
        context_offsets=array("i", [0, end]),
        tree_offsets=array("i", [0, 0]),
        row_seq=array("i", [0] * count),
        row_context_len=array("i", range(start + 1, end + 1)),
        row_masks=array("q", [0] * count),
        asked_rows=array("q", asked),
        choices=[None] * len(asked),
    )


class Formulas:
    """What the layer computes, in float64, one token after the other, as the papers write it down."""

    def __init__(self, tiny: Tiny) -> None:
        self._spec, self._weights = tiny.spec, tiny.weights
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def _rms(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self._spec.layer.norm_eps).rsqrt() * scale.double()

    def _rotated(self, heads: torch.Tensor, position: int) -> torch.Tensor:
        spec = self._spec.layer
        rotary = spec.layers[0].rotary
        assert rotary is not None
        cosines, sines = cos_sin_table(rotary, spec.head_dim, 64)[position].double().chunk(2)
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)

    def state(self, token_id: int, fed: torch.Tensor, *, is_fed_back: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What is fed back, and what the head reads, of the next token."""
        weights, spec, layer = self._weights, self._spec.layer, self._weights.layer
        n = self._rms(weights.embedding[token_id].double() * spec.embedding_scale, weights.embedding_norm.scale)
        fused = weights.fed_back if is_fed_back else weights.taps
        if not is_fed_back:
            if weights.tap_norms:
                parts = zip(fed.double().split(TARGET), weights.tap_norms, strict=True)
                fed = torch.cat([self._rms(part, norm.scale) for part, norm in parts])
            if weights.taps_norm is not None:
                fed = self._rms(fed.double(), weights.taps_norm.scale)
        g = fed.double() if fused.states is None else product(fused.states, fed.double())
        normed = self._rms(g, weights.hidden_norm.scale)
        y = normed if self._spec.residual_is_normed else g
        if fused.embedding is not None:
            y = y + product(fused.embedding, n)
        qkv = product(layer.attention.qkv, torch.cat([n, normed])).view(-1, spec.head_dim)
        q, k, v = qkv.split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads])
        if layer.attention.q_norm is not None and layer.attention.k_norm is not None:
            q, k = self._rms(q, layer.attention.q_norm), self._rms(k, layer.attention.k_norm)
        position = len(self._keys)
        self._keys.append(self._rotated(k, position))
        self._values.append(v)
        first = 0 if spec.layers[0].window is None else max(0, position + 1 - spec.layers[0].window)
        group = spec.num_heads // spec.num_kv_heads
        keys, values = (
            torch.stack(kept[first:]).repeat_interleave(group, dim=1) for kept in (self._keys, self._values)
        )
        scores = torch.einsum("hd,thd->ht", self._rotated(q, position), keys) * spec.attention_scale
        attended = torch.einsum("ht,thd->hd", scores.softmax(-1), values).flatten()
        y = y + product(layer.attention.out, attended)
        assert layer.mlp_norm is not None
        gate, up = product(layer.mlp.up, self._rms(y, layer.mlp_norm.scale)).chunk(2)
        y = y + product(layer.mlp.down, torch.nn.functional.silu(gate) * up)
        z = self._rms(y, weights.norm.scale)
        return (z if self._spec.feeds_normed_state else y), z

    def logits(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all ids of the head: exact ones, and those by which candidates are found."""
        exact = z @ self._weights.head.double().T
        low_rank = self._weights.candidates
        approximate = exact if low_rank is None else (z @ plain(low_rank.down).T) @ plain(low_rank.up).T
        cap = self._spec.layer.logit_soft_cap
        if cap is not None:
            exact, approximate = (cap * torch.tanh(logits / cap) for logits in (exact, approximate))
        return exact, approximate


def plain(weight: Any) -> torch.Tensor:
    """In float64."""
    return (weight.dequantized() if isinstance(weight, QuantizedWeight) else weight).double()


def product(linear: LinearWeights, x: torch.Tensor) -> torch.Tensor:
    """In float64."""
    out = x @ plain(linear.weight).T
    return out if linear.bias is None else out + linear.bias.double()


def with_changes(tiny: Tiny, **changes: Any) -> Tiny:
    """The same with other weights."""
    return Tiny(tiny.spec, replace(tiny.weights, **changes))
