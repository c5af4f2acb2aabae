"""What a decoder is, as data: made by a family from ``config.json``, read by the one decoder definition.

Everything in which the families differ is a field here or the presence of a weight (``specgrove.models.decoder.parameters``). Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from specgrove.kernels.activations import Activation
from specgrove.models.decoder.rotary_spec import RotarySpec

Residual: TypeAlias = Literal["pre_norm", "post_norm", "parallel"]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rotary: RotarySpec | None = None
    window: int | None = None
    """A token sees this many tokens, itself included (sliding-window attention); ``None`` sees all before it."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """One decoder. Sizes are in elements."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Activation
    is_gated: bool
    """Whether the MLP is ``activation(gate(x)) * up(x)`` instead of ``activation(up(x))``."""
    residual: Residual
    """``parallel``: attention and MLP read the same input and are added together; ``post_norm``: the norms follow the sums."""
    attention_scale: float
    has_tied_head: bool
    alibi_slopes: tuple[float, ...] | None = None
    """Per head; arXiv 2108.12409."""
    qkv_clip: float | None = None
    """Queries, keys and values are clamped to plus and minus this."""
    attention_soft_cap: float | None = None
    """Attention's scores ``s`` become ``cap * tanh(s / cap)``; so do logits by the other one. arXiv 2408.00118."""
    logit_soft_cap: float | None = None
    residual_scale: float = 1.0
    """What attention and MLP add to the hidden states is multiplied by this; so is what the head reads by the other one."""
    logit_scale: float = 1.0
    has_norm_weights: bool = True
    """Whether norms scale and shift what they have normalised."""
    has_final_norm: bool = True
    """Whether the head reads normalised hidden states. Only OPT may have none."""
    embedding_scale: float = 1.0
    embedding_size: int | None = None
    """Where it is not the hidden size: there is a projection then."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    def longest_sequence(self, max_model_len: int | None) -> int:
        """In tokens: what is asked for, or as many as the model has positions. Raises ``ValueError`` where those are fewer."""
        positions = self.max_position_embeddings
        if max_model_len is not None and max_model_len > positions:
            raise ValueError(f"--max-model-len {max_model_len} is more than the model's {positions} positions")
        return max_model_len or positions

    @property
    def num_embedding_parameters(self) -> int:
        """The token embedding's; a head of its own has as many."""
        return self.vocab_size * (self.embedding_size or self.hidden_size)

    @property
    def num_parameters(self) -> int:
        """Weights of the token embedding and all linears (a tied head counts once); norms, biases and positions are left out."""
        hidden, embedding = self.hidden_size, self.embedding_size or self.hidden_size
        attention = hidden * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = hidden * self.intermediate_size * (3 if self.is_gated else 2)
        vocab = self.num_embedding_parameters * (1 if self.has_tied_head else 2)
        projections = 2 * hidden * embedding if self.embedding_size is not None else 0
        return self.num_layers * (attention + mlp) + vocab + projections
