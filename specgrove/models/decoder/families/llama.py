"""The Llama family and those built like it: Llama, Mistral, Qwen2, Qwen3.

RMS norm, rotary positions (half-rotated), grouped-query attention, SiLU-gated MLP. They differ in biases and query-key norms, which
the checkpoint tells, and in sliding windows. Source of the names and defaults: the configurations of Hugging Face transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.architectures import ARCHITECTURES
from specgrove.models.decoder.families.config_values import (
    activation_of,
    head_dim_of,
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
)
from specgrove.models.decoder.rope_config import longest_context, rotary_of
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="model.", layers="layers.", embedding="embed_tokens")
# Of configurations that don't say it; Llama's and Granite's is 2,048.
_DEFAULT_POSITIONS = {"MistralForCausalLM": 131072, "Qwen2ForCausalLM": 32768, "Qwen3ForCausalLM": 32768}


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what is not Llama as SpecGrove runs it."""
    if config.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor is not supported")
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = _head_dim(config, hidden_size, num_heads)
    max_positions = config.size("max_position_embeddings", _DEFAULT_POSITIONS.get(_architecture(config), 2048))
    rotary = rotary_of(config, 10000.0, max_positions)
    return DecoderSpec(
        architecture=_architecture(config),
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=config.size("num_key_value_heads", _default_num_kv_heads(config, num_heads)),
        head_dim=head_dim,
        max_position_embeddings=longest_context(rotary, max_positions),
        layers=tuple(LayerSpec(rotary, window) for window in _windows(config)),
        norm="rms",
        norm_eps=norm_eps_of(config, "rms_norm_eps", 1e-6),
        activation=activation_of(config, "hidden_act", "silu"),
        is_gated=True,
        residual="pre_norm",
        attention_scale=head_dim**-0.5,
        has_tied_head=config.flag("tie_word_embeddings", False),
    )


def _architecture(config: JsonObject) -> str:
    return next(name for name in config.texts("architectures") if name in ARCHITECTURES)


def _default_num_kv_heads(config: JsonObject, num_heads: int) -> int:
    is_left_out = "num_key_value_heads" not in config  # null stands for the number of query heads
    return 8 if is_left_out and _architecture(config) == "MistralForCausalLM" else num_heads


def _head_dim(config: JsonObject, hidden_size: int, num_heads: int) -> int:
    if config.has("head_dim"):
        return config.size("head_dim")
    # The one family whose heads have a size of their own where nothing is said.
    return 128 if _architecture(config) == "Qwen3ForCausalLM" else head_dim_of(config, hidden_size, num_heads)


def _windows(config: JsonObject) -> list[int | None]:
    """Every layer's window, with transformers' defaults for keys that are left out."""
    architecture, num_layers = _architecture(config), config.size("num_hidden_layers")
    if architecture == "LlamaForCausalLM":
        return [None] * num_layers
    if architecture != "MistralForCausalLM" and not config.flag("use_sliding_window", False):
        return [None] * num_layers
    kinds = layer_kinds(config, num_layers)
    window = window_of(config, kinds)
    first = 0 if architecture == "MistralForCausalLM" else config.integer("max_window_layers", 28)
    if not kinds:
        return [window if index >= first else None for index in range(num_layers)]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _always_there(spec: DecoderSpec) -> tuple[str, ...]:
    """Tensors of the attention that others of this family may have: left out, these models would give wrong answers without a word."""
    if spec.architecture == "Qwen2ForCausalLM":
        return "q_proj.bias", "k_proj.bias", "v_proj.bias"
    return ("q_norm.weight", "k_norm.weight") if spec.architecture == "Qwen3ForCausalLM" else ()


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""

    def layer(index: int) -> LayerWeights:
        prefix = f"layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        q_norm, k_norm = attention + "q_norm", attention + "k_norm"
        for name in _always_there(spec):
            reader.require(attention + name)
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
