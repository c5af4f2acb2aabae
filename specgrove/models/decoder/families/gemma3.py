"""Gemma 3, text: query-key norms, norms before and after attention and MLP, most layers with a sliding window and their own
rotary base, embeddings scaled by the root of the hidden size.

Source of the names and defaults: ``Gemma3TextConfig`` and ``Gemma3ForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.config_values import (
    LAYER_KINDS,
    activation_of,
    layer_kinds,
    norm_eps_of,
    window_of,
)
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
    NormWeights,
)
from specgrove.models.decoder.rope_config import longest_context, merged, rotary_from
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="model.", layers="layers.", embedding="embed_tokens")


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.has(name):
            raise UnsupportedModelError(f"{name} is not supported")
    layers, max_positions = _layers(config), config.size("max_position_embeddings", 131072)
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    return DecoderSpec(
        architecture="Gemma3ForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=config.size("num_key_value_heads", 4),
        head_dim=config.size("head_dim", 256),
        max_position_embeddings=max(longest_context(layer.rotary, max_positions) for layer in layers),
        layers=layers,
        norm="rms",
        norm_eps=norm_eps_of(config, "rms_norm_eps", 1e-6),
        activation=activation_of(config, "hidden_activation", "gelu_pytorch_tanh"),
        is_gated=True,
        residual="pre_norm",
        attention_scale=config.positive("query_pre_attn_scalar", 256) ** -0.5,
        has_tied_head=config.flag("tie_word_embeddings", True),
        embedding_scale=float(hidden_size) ** 0.5,
    )


def _layers(config: JsonObject) -> tuple[LayerSpec, ...]:
    num_layers, max_positions = config.size("num_hidden_layers"), config.size("max_position_embeddings", 131072)
    # transformers 5 writes rope_parameters by kind of layer; earlier versions rope_theta, rope_scaling and rope_local_base_freq.
    by_kind = config.object("rope_parameters")
    # What stands beside the kinds is nobody's, here as in transformers. Where it stands alone somebody meant something by it.
    if by_kind and not set(LAYER_KINDS) & by_kind.keys():
        raise config.error(
            "rope_parameters",
            'an object for each kind of layers: {"full_attention": {...}, "sliding_attention": {...}}',
        )
    full = merged(config, {
        "rope_parameters.full_attention": by_kind.object("full_attention"), "rope_scaling": config.object("rope_scaling"),
    })  # fmt: skip
    local = merged(config, {"rope_parameters.sliding_attention": by_kind.object("sliding_attention")})
    kinds: Sequence[str] = layer_kinds(config, num_layers)
    if not kinds:
        pattern = config.size("sliding_window_pattern", config.size("_sliding_window_pattern", 6))
        kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(num_layers)]
    window = window_of(config, kinds)
    of_kind = {
        "full_attention": LayerSpec(rotary_from(config, full, "rope_theta", 1e6, max_positions)),
        "sliding_attention": LayerSpec(rotary_from(config, local, "rope_local_base_freq", 1e4, max_positions), window),
    }
    return tuple(of_kind[kind] for kind in kinds)


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    return gemma_weights(reader, spec, has_head_norms=True)


def gemma_weights(reader: ShardReader, spec: DecoderSpec, *, has_head_norms: bool) -> ModelWeights:
    """Of Gemma 2 as well, whose queries and keys have no norms."""

    def norm(name: str, size: int | None = None) -> NormWeights:
        weights = reader.norm(name, size)  # stored as the difference from 1
        return replace(weights, scale=weights.scale.float() + 1)

    def layer(index: int) -> LayerWeights:
        prefix = f"layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        return LayerWeights(
            attention_norm=norm(prefix + "input_layernorm"),
            attention=AttentionWeights(
                qkv=reader.qkv(
                    HeadRows.separate(attention + "q_proj", attention + "k_proj", attention + "v_proj", spec)
                ),
                out=reader.attention_out(attention + "o_proj"),
                q_norm=norm(attention + "q_norm", spec.head_dim).scale if has_head_norms else None,
                k_norm=norm(attention + "k_norm", spec.head_dim).scale if has_head_norms else None,
            ),
            attention_out_norm=norm(prefix + "post_attention_layernorm"),
            mlp_norm=norm(prefix + "pre_feedforward_layernorm"),
            mlp=MlpWeights(reader.columns(mlp + "gate_proj", mlp + "up_proj"), reader.down(mlp + "down_proj")),
            mlp_out_norm=norm(prefix + "post_feedforward_layernorm"),
        )

    return ModelWeights(
        embedding=lambda: EmbeddingWeights(reader.vocab_table("embed_tokens")),
        layer=layer,
        head=lambda: HeadWeights(reader.vocab_head("lm_head", tied="embed_tokens"), norm("norm")),
    )
