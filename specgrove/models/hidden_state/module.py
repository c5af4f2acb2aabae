"""The layer of a ``HiddenSsmSpec`` in plain torch: what programs are compared with, and what is trained.

Pair i is (hidden states of token i, embedding of token i + 1); its state predicts token i + 2, and its position is i. A step that follows
it reads its state in place of hidden states (arXiv 2503.01840). Parameters have the names of our own format's tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from specgrove.models.decoder.rotary import cos_sin_table
from specgrove.models.hidden_state.spec import HiddenSsmSpec

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries ``[..., num_heads, num_rows, head_dim]`` and the rows' keys and values ``[..., num_kv_heads, num_rows, head_dim]`` to
what is attended, shaped as the queries. Rows that came before are the callable's own affair."""


class LayerInput(NamedTuple):
    """What enters the layer, each ``[..., num_rows, hidden_size]``."""

    normed_embeddings: torch.Tensor
    normed: torch.Tensor
    """Read by attention, beside the embeddings."""
    residual: torch.Tensor


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        wide = values.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self._eps)
        return (normed * self.weight.float()).to(values.dtype)


class CandidateHead(nn.Module):
    """Low-rank scores of the whole vocabulary, to find those ids that are worth exact ones."""

    def __init__(self, hidden_size: int, vocab_size: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(rank, hidden_size))
        self.up = nn.Parameter(torch.zeros(vocab_size, rank))

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """From ``[..., hidden_size]`` to ``[..., vocab_size]``."""
        return functional.linear(functional.linear(outputs, self.down), self.up)


class _Layer(nn.Module):
    """The decoder layer's tensors."""

    def __init__(self, spec: HiddenSsmSpec) -> None:
        super().__init__()
        hidden, head_dim = spec.hidden_size, spec.head_dim
        q_size, kv_size = spec.num_heads * head_dim, spec.num_kv_heads * head_dim
        self.input_norm = RmsNorm(hidden, spec.norm_eps)
        self.hidden_norm = RmsNorm(hidden, spec.norm_eps)
        self.post_attention_norm = RmsNorm(hidden, spec.norm_eps)
        self.q_proj = nn.Linear(2 * hidden, q_size, bias=spec.has_attention_bias)
        self.k_proj = nn.Linear(2 * hidden, kv_size, bias=spec.has_attention_bias)
        self.v_proj = nn.Linear(2 * hidden, kv_size, bias=spec.has_attention_bias)
        self.o_proj = nn.Linear(q_size, hidden, bias=False)
        self.gate_proj = nn.Linear(hidden, spec.intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden, spec.intermediate_size, bias=False)
        self.down_proj = nn.Linear(spec.intermediate_size, hidden, bias=False)
        if spec.has_query_key_norms:
            self.q_norm = RmsNorm(head_dim, spec.norm_eps)
            self.k_norm = RmsNorm(head_dim, spec.norm_eps)


class HiddenStateModule(nn.Module):
    """All tensors of one SSM but the embedding and the head, which may be the LLM's. Leading dimensions are free."""

    def __init__(self, spec: HiddenSsmSpec) -> None:
        super().__init__()
        self.spec = spec
        hidden, target = spec.hidden_size, spec.target_hidden_size
        self.fc = nn.Linear(spec.num_hidden_layers * target, hidden, bias=False)
        if spec.input_norms == "each":
            self.tap_norms = nn.ModuleList(RmsNorm(target, spec.norm_eps) for _ in spec.hidden_layers)
        elif spec.input_norms == "joint":
            self.joint_norm = RmsNorm(spec.num_hidden_layers * target, spec.norm_eps)
        self.layer = _Layer(spec)
        self.norm = RmsNorm(hidden, spec.norm_eps)
        if spec.has_embedding_residual:
            self.embedding_residual = nn.Linear(hidden, hidden, bias=False)
        if spec.has_fed_back_map:
            self.fed_back = nn.Linear(hidden, hidden, bias=False)
            self.fed_back_embedding = nn.Linear(hidden, hidden, bias=False)
        if spec.candidate_rank is not None:
            self.candidate_head = CandidateHead(hidden, spec.head_size, spec.candidate_rank)
        table = cos_sin_table(spec.rotary, spec.head_dim, spec.max_position_embeddings)
        self.register_buffer("_cos_sin", table, persistent=False)

    def of_hidden_states(self, hidden_states: torch.Tensor, embeddings: torch.Tensor) -> LayerInput:
        """The layer's input of pairs whose hidden states are the LLM's.

        ``hidden_states`` is ``[..., num_hidden_layers * target_hidden_size]``, by rising layer; ``embeddings`` is ``[..., hidden_size]``.
        """
        spec = self.spec
        if spec.input_norms == "each":
            taps = hidden_states.chunk(spec.num_hidden_layers, dim=-1)
            hidden_states = torch.cat([norm(tap) for norm, tap in zip(self.tap_norms, taps, strict=True)], dim=-1)
        elif spec.input_norms == "joint":
            hidden_states = self.joint_norm(hidden_states)
        return self._input(self.fc(hidden_states), embeddings, "embedding_residual")

    def of_own_states(self, states: torch.Tensor, embeddings: torch.Tensor) -> LayerInput:
        """The layer's input of steps that follow ``states`` (what ``forward`` gave) with drafted tokens."""
        spec = self.spec
        fed: torch.Tensor = self.norm(states) if spec.feeds_normed_state else states
        if spec.has_fed_back_map:
            return self._input(self.fed_back(fed), embeddings, "fed_back_embedding")
        return self._input(fed, embeddings, "embedding_residual")

    def _input(self, fused: torch.Tensor, embeddings: torch.Tensor, added: str) -> LayerInput:
        normed_embeddings = self.layer.input_norm(embeddings)
        normed = self.layer.hidden_norm(fused)
        if self.spec.residual_is_normed:
            return LayerInput(normed_embeddings, normed, normed)
        residual = fused + getattr(self, added)(normed_embeddings) if hasattr(self, added) else fused
        return LayerInput(normed_embeddings, normed, residual)

    def forward(self, given: LayerInput, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The states of rows, before the last norm: ``[..., num_rows, hidden_size]``.

        ``positions`` is int64 ``[num_rows]`` or ``[..., num_rows]``.
        """
        spec, layer = self.spec, self.layer
        both = torch.cat([given.normed_embeddings, given.normed], dim=-1)
        queries = self._heads(layer.q_proj(both), spec.num_heads)
        keys = self._heads(layer.k_proj(both), spec.num_kv_heads)
        values = self._heads(layer.v_proj(both), spec.num_kv_heads)
        if spec.has_query_key_norms:
            queries, keys = layer.q_norm(queries), layer.k_norm(keys)
        attended = attend(self._rotated(queries, positions), self._rotated(keys, positions), values)
        states: torch.Tensor = given.residual + layer.o_proj(attended.transpose(-3, -2).flatten(-2))
        normed = layer.post_attention_norm(states)
        states = states + layer.down_proj(functional.silu(layer.gate_proj(normed)) * layer.up_proj(normed))
        return states

    def outputs(self, states: torch.Tensor) -> torch.Tensor:
        """What the head reads."""
        outputs: torch.Tensor = self.norm(states)
        return outputs

    def candidates(self, outputs: torch.Tensor, head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best ids by the candidate head and their scores by the whole one: both ``[..., num_candidates]``, best first.

        ``head`` is ``[head_size, hidden_size]``. Without a candidate head all ids compete by the whole one.
        """
        count = min(self.spec.num_candidates, self.spec.head_size)
        if self.spec.candidate_rank is None:
            scores, ids = functional.linear(outputs, head).topk(count, dim=-1)
            return ids, scores
        ids = self.candidate_head(outputs).topk(count, dim=-1).indices
        scores = (head[ids] @ outputs.unsqueeze(-1)).squeeze(-1)
        scores, order = scores.sort(dim=-1, descending=True)
        return ids.gather(-1, order), scores

    def _heads(self, values: torch.Tensor, num_heads: int) -> torch.Tensor:
        return values.view(*values.shape[:-1], num_heads, self.spec.head_dim).transpose(-3, -2)

    def _rotated(self, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        table: torch.Tensor = self._cos_sin[positions].unsqueeze(-3)  # type: ignore[index]
        cos, sin = table.to(values.dtype).chunk(2, dim=-1)
        first, second = values.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
