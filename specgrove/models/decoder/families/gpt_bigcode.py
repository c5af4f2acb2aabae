"""GPT-BigCode (StarCoder, SantaCoder): learned positions, multi-query attention, tanh GELU, biases everywhere.

Source of the names and defaults: ``GPTBigCodeConfig`` and ``GPTBigCodeForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.config_values import activation_of, head_dim_of, norm_eps_of
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
)
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="transformer.", layers="h.", embedding="wte")


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    hidden_size, num_heads = config.size("n_embd"), config.size("n_head")
    head_dim = head_dim_of(config, hidden_size, num_heads)
    return DecoderSpec(
        architecture="GPTBigCodeForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("n_inner", 4 * hidden_size),
        num_heads=num_heads,
        num_kv_heads=1 if config.flag("multi_query", True) else num_heads,
        head_dim=head_dim,
        max_position_embeddings=config.size("n_positions"),
        layers=(LayerSpec(),) * config.size("n_layer"),
        norm="layer",
        norm_eps=norm_eps_of(config, "layer_norm_epsilon", 1e-5),
        activation=activation_of(config, "activation_function", "gelu_pytorch_tanh"),
        is_gated=False,
        residual="pre_norm",
        attention_scale=head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0,
        has_tied_head=config.flag("tie_word_embeddings", True),
    )


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""

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
