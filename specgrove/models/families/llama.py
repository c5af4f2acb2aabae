"""The Llama family and those built like it: Llama, Mistral, Qwen2, Qwen3.

RMS norm, rotary positions (half-rotated), grouped-query attention, SiLU-gated MLP. They differ in biases and query-key norms, which
the checkpoint tells, and in sliding windows. Source of the names and defaults: the configurations of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.checkpoint import HeadRows, ShardReader, TensorSource
from specgrove.models.errors import UnsupportedModelError
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

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def spec_of(config: Mapping[str, Any]) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what is not Llama as SpecGrove runs it."""
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor is not supported")
    num_heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // num_heads)
    max_positions = int(config.get("max_position_embeddings", 2048))
    # transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rotary = rotary_of(rope, float(config.get("rope_theta", 10000.0)), max_positions)
    return DecoderSpec(
        architecture=config["architectures"][0],
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or _default_num_kv_heads(config, num_heads)),
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        layers=tuple(LayerSpec(rotary, window) for window in _windows(config)),
        norm="rms",
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        activation=activation_of(config.get("hidden_act", "silu")),
        is_gated=True,
        residual="pre_norm",
        attention_scale=head_dim**-0.5,
        has_tied_head=bool(config.get("tie_word_embeddings", False)),
        eos_token_ids=eos_of(config),
    )


def _default_num_kv_heads(config: Mapping[str, Any], num_heads: int) -> int:
    return 8 if config["architectures"][0] == "MistralForCausalLM" else num_heads


def _windows(config: Mapping[str, Any]) -> list[int | None]:
    """Of every layer, with the defaults that transformers has for keys that are left out."""
    architecture, num_layers = config["architectures"][0], int(config["num_hidden_layers"])
    if architecture == "MistralForCausalLM":
        window = config.get("sliding_window", 4096)
        return [None if window is None else int(window)] * num_layers
    if architecture == "LlamaForCausalLM" or not config.get("use_sliding_window", False):
        return [None] * num_layers
    window, first = int(config.get("sliding_window") or 4096), int(config.get("max_window_layers", 28))
    kinds = config.get("layer_types") or [
        "sliding_attention" if index >= first else "full_attention" for index in range(num_layers)
    ]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def weights_of(source: TensorSource, spec: DecoderSpec, shard: Shard) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    reader = ShardReader(source, spec, shard, prefix="model.")

    def layer(index: int) -> LayerWeights:
        prefix = f"layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        q_norm, k_norm = attention + "q_norm", attention + "k_norm"
        return LayerWeights(
            attention_norm=reader.norm(prefix + "input_layernorm"),
            attention=AttentionWeights(
                qkv=reader.qkv(
                    HeadRows.separate(attention + "q_proj", attention + "k_proj", attention + "v_proj", spec)
                ),
                out=reader.attention_out(attention + "o_proj"),
                q_norm=reader.norm(q_norm, spec.head_dim).scale if reader.has(q_norm + ".weight") else None,
                k_norm=reader.norm(k_norm, spec.head_dim).scale if reader.has(k_norm + ".weight") else None,
            ),
            mlp_norm=reader.norm(prefix + "post_attention_layernorm"),
            mlp=MlpWeights(reader.columns(mlp + "gate_proj", mlp + "up_proj"), reader.down(mlp + "down_proj")),
        )

    return ModelWeights(
        embedding=lambda: EmbeddingWeights(reader.vocab_table("embed_tokens")),
        layer=layer,
        head=lambda: HeadWeights(reader.vocab_head("lm_head", tied="embed_tokens"), reader.norm("norm")),
    )
