"""A small decoder's layers for tests of native steps."""

from __future__ import annotations

import torch

from specgrove.kernels.decoder_step import StepLayer, StepNorm, StepShape
from specgrove.kernels.linear import PackedLinear

HIDDEN, INNER, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, NUM_SLOTS, MAX_POSITIONS = 48, 80, 4, 2, 12, 20, 32
SHAPE = StepShape(
    hidden_size=HIDDEN,
    num_heads=NUM_HEADS,
    num_kv_heads=NUM_KV_HEADS,
    head_dim=HEAD_DIM,
    norm="rms",
    norm_eps=1e-5,
    activation="silu",
    is_gated=True,
    residual="pre_norm",
    attention_scale=HEAD_DIM**-0.5,
    qkv_clip=None,
    alibi_slopes=None,
)


def linear(out_features: int, in_features: int) -> PackedLinear:
    return PackedLinear((torch.randn(out_features, in_features) * 0.1).bfloat16())


def layer() -> StepLayer:
    return StepLayer(
        qkv=linear((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM, HIDDEN),
        out=linear(HIDDEN, NUM_HEADS * HEAD_DIM),
        up=linear(2 * INNER, HIDDEN),
        down=linear(HIDDEN, INNER),
        attention_norm=StepNorm(torch.rand(HIDDEN), None),
        mlp_norm=StepNorm(torch.rand(HIDDEN), None),
        attention_out_norm=None,
        mlp_out_norm=None,
        q_norm=None,
        k_norm=None,
        cos_sin=torch.randn(MAX_POSITIONS, HEAD_DIM),
        window=None,
    )


def caches(num_layers: int = 2) -> list[torch.Tensor]:
    return [torch.zeros(NUM_SLOTS, NUM_KV_HEADS, HEAD_DIM, dtype=torch.bfloat16) for _ in range(num_layers)]
