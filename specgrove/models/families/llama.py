"""The Llama family: RMS norm, rotary positions (half-rotated), grouped-query attention, SiLU-gated MLP.

Source of the names and defaults: ``LlamaConfig`` and ``LlamaForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.spec import DecoderSpec, UnsupportedModelError
from specgrove.models.weights import Checkpoint, LayerWeights, ModelWeights

ARCHITECTURES = ("LlamaForCausalLM",)


def spec_of(config: Mapping[str, Any]) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what is not Llama as SpecGrove runs it."""
    # transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise UnsupportedModelError(f"rope type {rope_type!r} is not supported, only 'default'")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    num_heads = int(config["num_attention_heads"])
    eos = config.get("eos_token_id")
    return DecoderSpec(
        architecture="LlamaForCausalLM",
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // num_heads),
        max_position_embeddings=int(config.get("max_position_embeddings", 2048)),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        has_tied_head=bool(config.get("tie_word_embeddings", False)),
        has_attention_bias=bool(config.get("attention_bias", False)),
        has_mlp_bias=bool(config.get("mlp_bias", False)),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (int(eos),),
    )


def weights_of(checkpoint: Checkpoint, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, read as the layers are asked for."""

    def layer(index: int) -> LayerWeights:
        prefix = f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        query_key_value = [attention + name for name in ("q_proj", "k_proj", "v_proj")]
        gate_up = [mlp + name for name in ("gate_proj", "up_proj")]
        return LayerWeights(
            attention_norm=checkpoint.tensor(prefix + "input_layernorm.weight"),
            qkv=checkpoint.linear(query_key_value, spec.has_attention_bias),
            attention_out=checkpoint.linear([attention + "o_proj"], spec.has_attention_bias),
            mlp_norm=checkpoint.tensor(prefix + "post_attention_layernorm.weight"),
            gate_up=checkpoint.linear(gate_up, spec.has_mlp_bias),
            down=checkpoint.linear([mlp + "down_proj"], spec.has_mlp_bias),
        )

    embedding = "model.embed_tokens.weight"
    return ModelWeights(
        embedding=checkpoint.tensor(embedding),
        layer=layer,
        final_norm=checkpoint.tensor("model.norm.weight"),
        head=checkpoint.tensor(embedding if spec.has_tied_head else "lm_head.weight"),
    )
