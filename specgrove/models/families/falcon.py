"""Falcon in its three shapes, also under its old name: falcon-7b (multi-query, attention and MLP in parallel after one norm),
falcon-40b and later (grouped KV heads, two norms), and falcon-rw (ALiBi, biases, attention and MLP one after the other).

Source of the names and defaults: ``FalconConfig`` and ``FalconForCausalLM`` of Hugging Face transformers. One difference:
transformers rounds ALiBi's bias to bfloat16, which moves it by up to 0.4 %; here it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.checkpoint import HeadRows, ShardReader, TensorSource
from specgrove.models.families.alibi import geometric_slopes
from specgrove.models.families.config_values import activation_of, eos_of
from specgrove.models.rotary import rotary_of
from specgrove.models.sharding import Shard
from specgrove.models.spec import DecoderSpec, LayerSpec
from specgrove.models.weights import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
)

ARCHITECTURES = ("FalconForCausalLM", "RWForCausalLM")


def spec_of(config: Mapping[str, Any]) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    hidden_size = int(config["hidden_size"])
    num_heads = int(config.get("num_attention_heads") or config["n_head"])
    head_dim, max_positions = hidden_size // num_heads, int(config.get("max_position_embeddings", 2048))
    has_alibi = bool(config.get("alibi", False))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rotary = None if has_alibi else rotary_of(rope, float(config.get("rope_theta", 10000.0)), max_positions)
    is_parallel = bool(config.get("parallel_attn", True)) or _is_new(config)
    scale = head_dim**-0.5
    return DecoderSpec(
        architecture="FalconForCausalLM",
        vocab_size=int(config["vocab_size"]),
        hidden_size=hidden_size,
        intermediate_size=int(config.get("ffn_hidden_size") or 4 * hidden_size),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(config, num_heads),
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        layers=(LayerSpec(rotary),) * int(config.get("num_hidden_layers") or config["n_layer"]),
        norm="layer",
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        activation=activation_of(config.get("activation", "gelu")),
        is_gated=False,
        residual="parallel" if is_parallel else "pre_norm",
        attention_scale=scale,
        has_tied_head=bool(config.get("tie_word_embeddings", True)),
        eos_token_ids=eos_of(config),
        # Falcon scales the bias as it scales the products.
        alibi_slopes=tuple(scale * slope for slope in geometric_slopes(num_heads)) if has_alibi else None,
    )


def _is_new(config: Mapping[str, Any]) -> bool:
    # falcon-40b's first configurations tell by n_head_kv only.
    return bool(config.get("new_decoder_architecture", False)) or "n_head_kv" in config


def _num_kv_heads(config: Mapping[str, Any], num_heads: int) -> int:
    if _is_new(config):
        return int(config.get("num_kv_heads") or config.get("n_head_kv") or num_heads)
    return 1 if config.get("multi_query", True) else num_heads


def weights_of(source: TensorSource, spec: DecoderSpec, shard: Shard) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    reader = ShardReader(source, spec, shard, prefix="transformer.")

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
