"""What a decoder is, as data: made by a family from ``config.json``, read by the one decoder definition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A pre-norm decoder with rotary positions, grouped-query attention and a gated MLP. Sizes are in elements."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    has_tied_head: bool
    has_attention_bias: bool
    has_mlp_bias: bool
    eos_token_ids: tuple[int, ...]


class UnsupportedModelError(ValueError):
    """A checkpoint asks for something the decoder doesn't do; the text names it."""
