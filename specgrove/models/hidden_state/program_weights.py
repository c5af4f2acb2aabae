"""From tensors under our own format's names, and the LLM's embedding and head, to what ``specgrove.program.hidden_state`` runs.

Called at loading, and where a trained module is measured. Linears are quantised here where that is asked for: they are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from specgrove.kernels.quantized_linear import quantize
from specgrove.models.decoder.hidden_state import CandidateWeights, FusedWeights, HiddenStateSpec, HiddenStateWeights
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    LayerWeights,
    LinearWeights,
    MlpWeights,
    NormWeights,
    Weight,
)
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.hidden_state.spec import HiddenSsmSpec

_INT4_GROUP_SIZES = (32, 16, 8, 4)


@dataclass(frozen=True, slots=True)
class ModelEnds:
    """What stands before and behind the layer: the LLM's own, or a checkpoint's."""

    embedding: torch.Tensor  # [vocab_size, hidden_size]
    head: torch.Tensor  # [head_size, hidden_size]; may be the embedding itself
    embedding_scale: float = 1.0
    logit_soft_cap: float | None = None
    token_ids: torch.Tensor | None = None
    """int64 ``[head_size]``, rising: the ids of the head's rows where they aren't all."""


def program_spec_of(spec: HiddenSsmSpec, ends: ModelEnds) -> HiddenStateSpec:
    """The layer as the program takes it. Its window is none: the SSM keeps no older pairs."""
    layer = DecoderSpec(
        architecture="HiddenStateSsm",
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_position_embeddings,
        layers=(LayerSpec(spec.rotary),),
        norm="rms",
        norm_eps=spec.norm_eps,
        activation="silu",
        is_gated=True,
        residual="pre_norm",
        attention_scale=spec.head_dim**-0.5,
        has_tied_head=ends.head is ends.embedding,
        logit_soft_cap=ends.logit_soft_cap,
        embedding_scale=ends.embedding_scale,
    )
    return HiddenStateSpec(
        layer,
        spec.target_hidden_size,
        spec.num_hidden_layers,
        spec.num_candidates,
        residual_is_normed=spec.residual_is_normed,
        feeds_normed_state=spec.feeds_normed_state,
    )


def program_weights_of(
    spec: HiddenSsmSpec, tensors: Mapping[str, torch.Tensor], ends: ModelEnds, quantization: str = "none"
) -> HiddenStateWeights:
    """``tensors`` are all that the spec asks for. ``quantization`` is ``none``, ``int8`` or ``int4``; a candidate head then has 8 bits."""

    def weight(*names: str, most_bits: int = 4) -> Weight:
        stacked = torch.cat([tensors[name] for name in names]).float()
        if quantization == "none":
            return stacked
        bits = 8 if quantization == "int8" else most_bits
        size = next((size for size in _INT4_GROUP_SIZES if stacked.shape[1] % size == 0), None)
        return quantize(stacked, 8, None) if bits == 8 or size is None else quantize(stacked, 4, size)

    def linear(*names: str) -> LinearWeights:
        biases = [tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors]
        return LinearWeights(
            weight(*(f"{name}.weight" for name in names)), torch.cat(biases).float() if biases else None
        )

    def norm(name: str) -> NormWeights:
        return NormWeights(tensors[f"{name}.weight"].float())

    def head_norm(name: str) -> torch.Tensor | None:
        return tensors[f"layer.{name}.weight"].float() if spec.has_query_key_norms else None

    embedding_residual = linear("embedding_residual") if spec.has_embedding_residual else None
    if spec.has_fed_back_map:
        fed_back = FusedWeights(linear("fed_back"), linear("fed_back_embedding"))
    else:
        fed_back = FusedWeights(None, embedding_residual)
    candidates = None
    if spec.candidate_rank is not None:
        candidates = CandidateWeights(
            weight("candidate_head.down", most_bits=8), weight("candidate_head.up", most_bits=8)
        )
    return HiddenStateWeights(
        embedding=ends.embedding,
        embedding_norm=norm("layer.input_norm"),
        hidden_norm=norm("layer.hidden_norm"),
        taps=FusedWeights(linear("fc"), embedding_residual),
        layer=LayerWeights(
            attention_norm=norm("layer.hidden_norm"),
            attention=AttentionWeights(
                linear("layer.q_proj", "layer.k_proj", "layer.v_proj"),
                linear("layer.o_proj"),
                head_norm("q_norm"),
                head_norm("k_norm"),
            ),
            mlp=MlpWeights(linear("layer.gate_proj", "layer.up_proj"), linear("layer.down_proj")),
            mlp_norm=norm("layer.post_attention_norm"),
        ),
        norm=norm("norm"),
        head=ends.head,
        fed_back=fed_back,
        tap_norms=tuple(norm(f"tap_norms.{i}") for i in range(spec.num_hidden_layers))
        if spec.input_norms == "each"
        else (),
        taps_norm=norm("joint_norm") if spec.input_norms == "joint" else None,
        candidates=candidates,
        token_ids=ends.token_ids,
    )
