"""Gemma 2: scores and logits are soft-capped (arXiv 2408.00118), every other layer has a sliding window. Norms, MLP and embedding are
those of Gemma 3; queries and keys have no norms.

Source of the names and defaults: ``Gemma2Config`` and ``Gemma2ForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.config_values import activation_of, layer_kinds, norm_eps_of, window_of
from specgrove.models.decoder.families.gemma3 import gemma_weights
from specgrove.models.decoder.parameters import ModelWeights
from specgrove.models.decoder.rope_config import longest_context, rotary_of
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="model.", layers="layers.", embedding="embed_tokens")


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    max_positions = config.size("max_position_embeddings", 8192)
    rotary = rotary_of(config, 10000.0, max_positions)
    hidden_size = config.size("hidden_size")
    return DecoderSpec(
        architecture="Gemma2ForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_heads=config.size("num_attention_heads"),
        num_kv_heads=config.size("num_key_value_heads", 4),
        head_dim=config.size("head_dim", 256),
        max_position_embeddings=longest_context(rotary, max_positions),
        layers=tuple(LayerSpec(rotary, window) for window in _windows(config)),
        norm="rms",
        norm_eps=norm_eps_of(config, "rms_norm_eps", 1e-6),
        activation=activation_of(config, "hidden_activation", "gelu_pytorch_tanh"),
        is_gated=True,
        residual="pre_norm",
        attention_scale=config.positive("query_pre_attn_scalar", 256) ** -0.5,
        has_tied_head=config.flag("tie_word_embeddings", True),
        embedding_scale=float(hidden_size) ** 0.5,
        attention_soft_cap=_soft_cap(config, "attn_logit_softcapping", 50.0),
        logit_soft_cap=_soft_cap(config, "final_logit_softcapping", 30.0),
    )


def _windows(config: JsonObject) -> tuple[int | None, ...]:
    num_layers = config.size("num_hidden_layers")
    kinds: Sequence[str] = layer_kinds(config, num_layers)
    if not kinds:
        kinds = ["full_attention" if index % 2 else "sliding_attention" for index in range(num_layers)]
    window = window_of(config, kinds)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _soft_cap(config: JsonObject, key: str, default: float) -> float | None:
    """Null says that there is none, a key that is left out doesn't."""
    return None if key in config and not config.has(key) else config.positive(key, default)


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    return gemma_weights(reader, spec, has_head_norms=False)
