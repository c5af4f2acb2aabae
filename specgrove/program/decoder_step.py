"""From a decoder's parts to the native step that runs its layers, or all of it, in one call. Called once, after loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from specgrove.kernels.decoder_step import DecoderStep, StepShape
from specgrove.kernels.model_step import ModelStep
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.sharding import HeadShard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.decoder_ends import Embedding, Head
from specgrove.program.decoder_layer import DecoderLayer


def decoder_step_of(
    layers: Sequence[DecoderLayer],
    spec: DecoderSpec,
    heads: HeadShard,
    cos_sin: Mapping[RotarySpec, torch.Tensor],
) -> DecoderStep | None:
    """``None`` where a layer can't be run natively, and where there are no layers."""
    step_layers = [
        layer.step_layer(None if layer.spec.rotary is None else cos_sin[layer.spec.rotary]) for layer in layers
    ]
    native_layers = [layer for layer in step_layers if layer is not None]
    if not layers or len(native_layers) < len(layers):
        return None
    shape = StepShape(
        hidden_size=spec.hidden_size,
        num_heads=heads.num_q,
        num_kv_heads=heads.num_kv,
        head_dim=spec.head_dim,
        norm=spec.norm,
        norm_eps=spec.norm_eps,
        activation=spec.activation,
        is_gated=spec.is_gated,
        residual=spec.residual,
        attention_scale=spec.attention_scale,
        qkv_clip=spec.qkv_clip,
        alibi_slopes=layers[0].attention.alibi_slopes,
    )
    return DecoderStep(shape, native_layers)


def model_step_of(layers: DecoderStep | None, embedding: Embedding | None, head: Head | None) -> ModelStep | None:
    """``None`` where a part is another rank's, or can't be run natively."""
    if layers is None or embedding is None or head is None:
        return None
    step_embedding, step_head = embedding.step_embedding(), head.step_head()
    if step_embedding is None or step_head is None:
        return None
    return ModelStep(step_embedding, layers, step_head)
