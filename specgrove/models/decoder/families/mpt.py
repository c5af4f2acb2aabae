"""MPT: ALiBi, layer norms without a shift, GELU, no biases.

Source of the names and defaults: ``MptConfig`` and ``MptForCausalLM`` of Hugging Face transformers, which take ``alibi_bias_max`` for 8
whatever the configuration says; here its value counts, as it did in training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.alibi import interleaved_slopes
from specgrove.models.decoder.families.config_values import head_dim_of, norm_eps_of
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
)
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="transformer.", layers="blocks.", embedding="wte")
_ATTENTION = "multihead_attention"


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    attention = config.object("attn_config")
    hidden_size, num_heads = config.size("d_model"), config.size("n_heads")
    if not attention.flag("alibi", True):
        raise UnsupportedModelError("MPT without ALiBi (learned positions) is not supported")
    if attention.flag("qk_ln", False) or attention.text("attn_type", _ATTENTION) != _ATTENTION:
        raise UnsupportedModelError(
            "MPT with qk_ln or with an attn_type other than multihead_attention is not supported"
        )
    _refuse_unread(config, attention, num_heads)
    head_dim = head_dim_of(config, hidden_size, num_heads)
    return DecoderSpec(
        architecture="MptForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=int(config.positive("expansion_ratio", 4) * hidden_size),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_seq_len"),
        layers=(LayerSpec(),) * config.size("n_layers"),
        norm="layer",
        norm_eps=norm_eps_of(config, "layer_norm_epsilon", 1e-5),
        activation="gelu",
        is_gated=False,
        residual="pre_norm",
        attention_scale=attention.positive("softmax_scale", head_dim**-0.5),
        has_tied_head=config.flag("tie_word_embeddings", True),
        alibi_slopes=interleaved_slopes(num_heads, attention.positive("alibi_bias_max", 8)),
        qkv_clip=attention.number("clip_qkv", 0) or None,  # 0 clips nothing, in transformers too
    )


def _refuse_unread(config: JsonObject, attention: JsonObject, num_heads: int) -> None:
    """What models trained by the family's own code may have and transformers takes no notice of. Raises ``UnsupportedModelError``."""
    asked = {
        "logit_scale": config.has("logit_scale"),
        "norm_type": not config.text("norm_type", "layernorm").endswith("layernorm"),
        "ffn_config": config.object("ffn_config").text("ffn_type", "mptmlp") != "mptmlp",
        "attn_config.prefix_lm": attention.flag("prefix_lm", False),
        "attn_config.qk_gn": attention.flag("qk_gn", False),
        "attn_config.rope": attention.flag("rope", False),
        "attn_config.sliding_window_size": attention.integer("sliding_window_size", -1) > 0,
        "attn_config.kv_n_heads": attention.size("kv_n_heads", num_heads) != num_heads,
    }
    if names := [name for name, is_asked in asked.items() if is_asked]:
        raise UnsupportedModelError(f"MPT with {' and '.join(names)} is not supported")


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""

    def layer(index: int) -> LayerWeights:
        name = f"blocks.{index}."
        heads = HeadRows.fused(name + "attn.Wqkv", spec)
        return LayerWeights(
            attention_norm=reader.norm(name + "norm_1"),
            attention=AttentionWeights(qkv=reader.qkv(heads), out=reader.attention_out(name + "attn.out_proj")),
            mlp_norm=reader.norm(name + "norm_2"),
            mlp=MlpWeights(reader.columns(name + "ffn.up_proj"), reader.down(name + "ffn.down_proj")),
        )

    return ModelWeights(
        embedding=lambda: EmbeddingWeights(reader.vocab_table("wte")),
        layer=layer,
        head=lambda: HeadWeights(reader.vocab_head("lm_head", tied="wte"), reader.norm("norm_f")),
    )
