"""A decoder's parameters as the families hand them over: plain or quantised, one layer at a time, this rank's part only.

Only type checkers import torch here: families tell specs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    from specgrove.kernels.quantized_linear import QuantizedWeight

Weight: TypeAlias = "torch.Tensor | QuantizedWeight"


@dataclass(frozen=True, slots=True)
class NormWeights:
    """``scale`` and ``shift`` are ``[size]``; RMS norms have no shift."""

    scale: torch.Tensor
    shift: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """``weight`` is ``[out_features, in_features]``, ``bias`` ``[out_features]``."""

    weight: Weight
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Query, key and value heads stand in one linear, in this order."""

    qkv: LinearWeights
    out: LinearWeights
    q_norm: torch.Tensor | None = None  # [head_dim], of every head before the rotation
    k_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """``up`` holds gate, then up, where the MLP is gated."""

    up: LinearWeights
    down: LinearWeights


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. The optional norms are those that some families have."""

    attention_norm: NormWeights
    attention: AttentionWeights
    mlp: MlpWeights
    mlp_norm: NormWeights | None = None  # None: a parallel layer whose MLP reads the attention's input
    attention_out_norm: NormWeights | None = None  # of what attention and MLP add (Gemma 3)
    mlp_out_norm: NormWeights | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingWeights:
    """``tokens`` holds the rank's rows of the vocabulary, ``[num_rows, embedding_size]``."""

    tokens: torch.Tensor
    positions: torch.Tensor | None = None  # [max_position_embeddings, hidden_size], learned
    projection: Weight | None = None  # [hidden_size, embedding_size]


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The way from hidden states to logits; ``vocab`` holds the rank's rows of the vocabulary."""

    vocab: Weight
    norm: NormWeights | None = None
    projection: Weight | None = None  # [embedding_size, hidden_size]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Each part is read when it is called for."""

    embedding: Callable[[], EmbeddingWeights]
    layer: Callable[[int], LayerWeights]
    head: Callable[[], HeadWeights]
