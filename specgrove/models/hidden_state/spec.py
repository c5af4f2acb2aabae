"""What an SSM conditioned on hidden states is, as data: one decoder layer that reads an LLM's hidden states (EAGLE-3, arXiv 2503.01840).

Made from a ``config.json``, of our own format or a published one; read by the torch module, the program and the service. Everything in
which the flavours differ is a field here. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from specgrove.models.decoder.rotary_spec import RotarySpec

NOISE_WEIGHT = 1.5
"""Of the SSM's own scores against the verifier's noise; 1.25 to 2 were measured to be as good, 1 and less to be worse."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes probabilities of the scores: ``softmax((scores + temperature * noise / noise_weight) / depth_scales[depth - 1])``.

    A weight of 0 leaves the noise out. Depths beyond the last take the last's scale.
    """

    depth_scales: tuple[float, ...] = (1.0,)
    noise_weight: float = NOISE_WEIGHT

    def __post_init__(self) -> None:
        if not self.depth_scales or not all(math.isfinite(scale) and scale > 0 for scale in self.depth_scales):
            raise ValueError(f"a calibration has positive scales, at least one, not {list(self.depth_scales)}")
        if not math.isfinite(self.noise_weight) or self.noise_weight < 0:
            raise ValueError(f"a calibration's noise weight is 0 or more, not {self.noise_weight}")

    def scale(self, depth: int) -> float:
        """Of nodes this far below the last committed token, from 1."""
        return self.depth_scales[min(depth, len(self.depth_scales)) - 1]


@dataclass(frozen=True, slots=True)
class HiddenSsmSpec:
    """One layer, its ends, and what it reads. Sizes are in elements."""

    hidden_size: int
    """Of the SSM; embedding and head are as wide, so it is the LLM's where they are the LLM's."""
    target_hidden_size: int
    """Of the LLM."""
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rotary: RotarySpec
    max_position_embeddings: int
    vocab_size: int
    """The LLM's."""
    hidden_layers: tuple[int, ...]
    """The LLM's hidden states at the input of these layers are read, rising; the number of layers: the state after the last."""
    hidden_window: int
    """Tokens that attention sees, the row's own included; and how many rows of a prompt are wanted."""
    input_norms: Literal["none", "each", "joint"] = "none"
    """Before ``fc``: no norm, one of each layer's hidden states (EAGLE-3.1), or one of all in a row."""
    residual_is_normed: bool = False
    """Whether ``hidden_norm`` of what comes in is the residual, not what comes in itself."""
    feeds_normed_state: bool = False
    """Whether the next step reads this one's state after the last norm (EAGLE-3.1)."""
    has_embedding_residual: bool = False
    """Whether ``embedding_residual`` of the normed embedding is added to what comes in."""
    has_fed_back_map: bool = False
    """Whether a state that is fed back goes through ``fed_back``, and its embedding through ``fed_back_embedding``."""
    has_query_key_norms: bool = False
    has_attention_bias: bool = False
    has_own_embedding: bool = False
    has_own_head: bool = False
    """Of ``draft_vocab_size`` rows; else the LLM's."""
    draft_vocab_size: int | None = None
    """Where the head has fewer rows than the LLM: there is a map to the LLM's ids then."""
    candidate_rank: int | None = None
    """Where there is a candidate head: the best ``num_candidates`` by it are scored by the whole head."""
    num_candidates: int = 64
    calibration: Calibration = field(default_factory=Calibration)
    first_choice_floor: float | None = None
    """The share of right first choices on the LLM's own text below which something must be wrong."""
    vocab_sha256: str = ""
    """Of the LLM that it was trained for; empty where it isn't told."""

    def __post_init__(self) -> None:
        if self.residual_is_normed and (self.has_embedding_residual or self.has_fed_back_map):
            raise ValueError("a normed residual goes with neither an embedding residual nor a map of fed back states")
        if list(self.hidden_layers) != sorted(set(self.hidden_layers)) or not self.hidden_layers:
            raise ValueError(f"hidden layers must rise, each once, and be at least one, not {list(self.hidden_layers)}")

    @property
    def num_hidden_layers(self) -> int:
        """Of the LLM that are read."""
        return len(self.hidden_layers)

    @property
    def head_size(self) -> int:
        """Rows of the head: ids that may be proposed."""
        return self.draft_vocab_size or self.vocab_size

    @property
    def num_parameters(self) -> int:
        """Weights of all linears of its own; norms and biases are left out."""
        hidden = self.hidden_size
        attention = hidden * self.head_dim * (2 * 2 * self.num_kv_heads + 2 * self.num_heads + self.num_heads)
        extra = hidden * hidden * (self.has_embedding_residual + 2 * self.has_fed_back_map)
        head = hidden * self.head_size if self.has_own_head else 0
        candidates = (self.candidate_rank or 0) * (hidden + self.head_size)
        fused = hidden * self.num_hidden_layers * self.target_hidden_size
        return fused + attention + 3 * hidden * self.intermediate_size + extra + head + candidates
