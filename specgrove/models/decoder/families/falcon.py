"""Falcon in its three shapes, also under its old name: falcon-7b (multi-query, attention and MLP in parallel after one norm),
falcon-40b and later (grouped KV heads, two norms), and falcon-rw (ALiBi, biases, attention and MLP one after the other).

Source of the names and defaults: ``FalconConfig`` and ``FalconForCausalLM`` of Hugging Face transformers. One difference:
transformers rounds ALiBi's bias to bfloat16, which moves it by up to 0.4 %; here it is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.alibi import geometric_slopes
from specgrove.models.decoder.families.config_values import activation_of, head_dim_of, norm_eps_of
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
)
from specgrove.models.decoder.rope_config import longest_context, rotary_of
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="transformer.", layers="h.", embedding="word_embeddings")


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    hidden_size, num_heads = config.size("hidden_size"), _size(config, "num_attention_heads", "n_head")
    head_dim, max_positions = head_dim_of(config, hidden_size, num_heads), config.size("max_position_embeddings", 2048)
    has_alibi = config.flag("alibi", False)
    rotary = None if has_alibi else rotary_of(config, 10000.0, max_positions)
    is_parallel = config.flag("parallel_attn", True) or _is_new(config)
    scale = head_dim**-0.5
    return DecoderSpec(
        architecture="FalconForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("ffn_hidden_size", 4 * hidden_size),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(config, num_heads),
        head_dim=head_dim,
        max_position_embeddings=longest_context(rotary, max_positions),
        layers=(LayerSpec(rotary),) * _size(config, "num_hidden_layers", "n_layer"),
        norm="layer",
        norm_eps=norm_eps_of(config, "layer_norm_epsilon", 1e-5),
        activation=activation_of(config, "activation", "gelu"),
        is_gated=False,
        residual="parallel" if is_parallel else "pre_norm",
        attention_scale=scale,
        has_tied_head=config.flag("tie_word_embeddings", True),
        # Falcon scales the bias as it scales the products.
        alibi_slopes=tuple(scale * slope for slope in geometric_slopes(num_heads)) if has_alibi else None,
    )


def _size(config: JsonObject, key: str, old_key: str) -> int:
    return config.size(old_key if config.has(old_key) and not config.has(key) else key)


def _is_new(config: JsonObject) -> bool:
    # falcon-40b's first configurations tell by n_head_kv only.
    return config.flag("new_decoder_architecture", False) or "n_head_kv" in config


def _num_kv_heads(config: JsonObject, num_heads: int) -> int:
    if _is_new(config):
        return config.size("num_kv_heads", config.size("n_head_kv", num_heads))
    return 1 if config.flag("multi_query", True) else num_heads


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""

    def layer(index: int) -> LayerWeights:
        name = f"h.{index}."
        attention = name + "self_attention."
        has_two_norms = reader.has(name + "ln_attn.weight")
        mlp_norm = name + ("ln_mlp" if has_two_norms else "post_attention_layernorm")
        return LayerWeights(
            attention_norm=reader.norm(name + ("ln_attn" if has_two_norms else "input_layernorm")),
            attention=AttentionWeights(
                qkv=reader.qkv(HeadRows.grouped(attention + "query_key_value", spec)),
                out=reader.attention_out(attention + "dense"),
            ),
            mlp_norm=reader.norm(mlp_norm) if reader.has(mlp_norm + ".weight") else None,
            mlp=MlpWeights(reader.columns(name + "mlp.dense_h_to_4h"), reader.down(name + "mlp.dense_4h_to_h")),
        )

    return ModelWeights(
        embedding=lambda: EmbeddingWeights(reader.vocab_table("word_embeddings")),
        layer=layer,
        head=lambda: HeadWeights(reader.vocab_head("lm_head", tied="word_embeddings"), reader.norm("ln_f")),
    )
