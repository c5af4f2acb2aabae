"""What a hidden-state SSM is: one decoder layer over an LLM's hidden states and its tokens' embeddings (EAGLE-3's kind, arXiv 2503.01840).

A *tap* is the LLM's residual stream at the input of one of its layers. The layer reads two inputs of a row: a fused state, from the LLM's
taps or from the state that the layer itself handed out a token earlier, and the embedding of the token that follows. Made by loaders,
run by ``specgrove.program.hidden_state``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specgrove.models.decoder.parameters import LayerWeights, LinearWeights, NormWeights, Weight
from specgrove.models.decoder.spec import DecoderSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class HiddenStateSpec:
    """Sizes are in elements."""

    layer: DecoderSpec
    """Of one layer, with norms before attention and MLP. ``vocab_size`` and ``embedding_scale`` are the LLM's."""
    target_hidden_size: int
    """Of one tap."""
    num_taps: int
    num_candidates: int = 64
    """Token ids that are handed out for each row."""
    residual_is_normed: bool = False
    """The layer adds to the norm of the fused state instead of to the state itself."""
    feeds_normed_state: bool = False
    """What is handed out, to be fed back, is the last norm's output instead of its input."""


@dataclass(frozen=True, slots=True)
class FusedWeights:
    """From what is fed to the fused state, and to what the layer adds to."""

    states: LinearWeights | None = None
    """``[hidden_size, width of what is fed]``; ``None``: what is fed is the fused state."""
    embedding: LinearWeights | None = None
    """``[hidden_size, embedding_size]``, of the normed embedding, for the residual alone; ``None``: nothing is added to it."""


@dataclass(frozen=True, slots=True)
class CandidateWeights:
    """A head of low rank, which only finds the candidates: scores are ``up @ down @ state``."""

    down: Weight  # [rank, hidden_size]
    up: Weight  # [num_ids, rank]


@dataclass(frozen=True, slots=True)
class HiddenStateWeights:
    """All of it; plain tensors may lie anywhere on the CPU."""

    embedding: torch.Tensor  # [vocab_size, embedding_size]: the LLM's table
    embedding_norm: NormWeights
    hidden_norm: NormWeights  # of the fused state
    taps: FusedWeights
    layer: (
        LayerWeights  # qkv takes embedding_size + hidden_size inputs, the embedding first; attention_norm is not read
    )
    norm: NormWeights  # before the head
    head: torch.Tensor  # [num_ids, hidden_size]; where it is the embedding itself, it is kept once
    fed_back: FusedWeights = FusedWeights()
    tap_norms: tuple[NormWeights, ...] = ()  # of each tap, or none
    taps_norm: NormWeights | None = None  # of all taps at once
    candidates: CandidateWeights | None = None  # None: the head itself finds them
    token_ids: torch.Tensor | None = None  # int64 [num_ids], rising: the head's ids; None: num_ids is vocab_size

    @property
    def num_ids(self) -> int:
        """Rows of the head."""
        return len(self.head)
