"""OPT: learned positions that begin at 2, layer norms before or (350m) after the sums, ReLU, biases everywhere.

The 350m's embeddings are narrower than its hidden states, with a projection on both ends. Source: ``OPTConfig`` and
``OPTForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families.config_values import activation_of, head_dim_of
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    MlpWeights,
    ModelWeights,
)
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec, Residual
from specgrove.models.weights.head_rows import HeadRows
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch

NAMES = FamilyNames(base="model.decoder.", layers="layers.", embedding="embed_tokens")
_POSITION_OFFSET = 2


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what the decoder doesn't do."""
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = head_dim_of(config, hidden_size, num_heads)
    embedding_size = config.size("word_embed_proj_dim", hidden_size)
    residual: Residual = "pre_norm" if config.flag("do_layer_norm_before", True) else "post_norm"
    return DecoderSpec(
        architecture="OPTForCausalLM",
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("ffn_dim"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_position_embeddings=config.size("max_position_embeddings"),
        layers=(LayerSpec(),) * config.size("num_hidden_layers"),
        norm="layer",
        norm_eps=1e-5,
        activation=activation_of(config, "activation_function", "relu"),
        is_gated=False,
        residual=residual,
        attention_scale=head_dim**-0.5,
        has_tied_head=config.flag("tie_word_embeddings", True),
        has_norm_weights=config.flag("layer_norm_elementwise_affine", True),
        has_final_norm=residual == "pre_norm" and not config.flag("_remove_final_layer_norm", False),
        embedding_size=None if embedding_size == hidden_size else embedding_size,
    )


def weights_of(reader: ShardReader, spec: DecoderSpec) -> ModelWeights:
    """The checkpoint's tensors under the decoder's names, this rank's part."""
    hidden, embedding = spec.hidden_size, spec.embedding_size or spec.hidden_size

    def embedding_weights() -> EmbeddingWeights:
        return EmbeddingWeights(
            tokens=reader.vocab_table("embed_tokens"),
            positions=reader.positions("embed_positions", _POSITION_OFFSET),
            projection=reader.whole("project_in", hidden, embedding) if spec.embedding_size is not None else None,
        )

    def layer(index: int) -> LayerWeights:
        name = f"layers.{index}."
        attention = name + "self_attn."
        return LayerWeights(
            attention_norm=reader.norm(name + "self_attn_layer_norm"),
            attention=AttentionWeights(
                qkv=reader.qkv(
                    HeadRows.separate(attention + "q_proj", attention + "k_proj", attention + "v_proj", spec)
                ),
                out=reader.attention_out(attention + "out_proj"),
            ),
            mlp_norm=reader.norm(name + "final_layer_norm"),
            mlp=MlpWeights(reader.columns(name + "fc1"), reader.down(name + "fc2")),
        )

    def head() -> HeadWeights:
        # Old checkpoints lack it without saying so; one that the configuration leaves out is left over, and so refused.
        has_final_norm = spec.has_final_norm and (not spec.has_norm_weights or reader.has("final_layer_norm.weight"))
        return HeadWeights(
            vocab=reader.vocab_head("lm_head", tied="embed_tokens"),
            norm=reader.norm("final_layer_norm") if has_final_norm else None,
            projection=reader.whole("project_out", embedding, hidden) if spec.embedding_size is not None else None,
        )

    return ModelWeights(embedding_weights, layer, head)
