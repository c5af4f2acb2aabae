"""GPT-BigCode (StarCoder, SantaCoder): learned positions, multi-query attention, tanh GELU, biases everywhere.

Source of the names and defaults: ``GPTBigCodeConfig`` and ``GPTBigCodeForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.checkpoint import HeadRows, ShardReader, TensorSource
from specgrove.models.families.config_values import activation_of, eos_of
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

ARCHITECTURES = ("GPTBigCodeForCausalLM",)


def spec_of(config: Mapping[str, Any]) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    hidden_size, num_heads = int(config["n_embd"]), int(config["n_head"])
    head_dim = hidden_size // num_heads
    return DecoderSpec(
        architecture="GPTBigCodeForCausalLM",
        vocab_size=int(config["vocab_size"]),
        hidden_size=hidden_size,
        intermediate_size=int(config.get("n_inner") or 4 * hidden_size),
        num_heads=num_heads,
        num_kv_heads=1 if config.get("multi_query", True) else num_heads,
        head_dim=head_dim,
        max_position_embeddings=int(config["n_positions"]),
        layers=(LayerSpec(),) * int(config["n_layer"]),
        norm="layer",
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        activation=activation_of(config.get("activation_function", "gelu_pytorch_tanh")),
        is_gated=False,
        residual="pre_norm",
        attention_scale=head_dim**-0.5 if config.get("scale_attn_weights", True) else 1.0,
        has_tied_head=bool(config.get("tie_word_embeddings", True)),
        eos_token_ids=eos_of(config),
    )


def weights_of(source: TensorSource, spec: DecoderSpec, shard: Shard) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    reader = ShardReader(source, spec, shard, prefix="transformer.")

    def layer(index: int) -> LayerWeights:
        name = f"h.{index}."
        # One KV head, or as many as query heads: both stand in groups of query heads, key, value.
        heads = HeadRows.grouped(name + "attn.c_attn", spec)
        return LayerWeights(
            attention_norm=reader.norm(name + "ln_1"),
            attention=AttentionWeights(qkv=reader.qkv(heads), out=reader.attention_out(name + "attn.c_proj")),
            mlp_norm=reader.norm(name + "ln_2"),
            mlp=MlpWeights(reader.columns(name + "mlp.c_fc"), reader.down(name + "mlp.c_proj")),
        )

    return ModelWeights(
        embedding=lambda: EmbeddingWeights(reader.vocab_table("wte"), reader.positions("wpe")),
        layer=layer,
        head=lambda: HeadWeights(reader.vocab_head("lm_head", tied="wte"), reader.norm("ln_f")),
    )
