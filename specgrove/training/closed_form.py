"""Where the training of a hidden-state SSM starts: maps that ridge regression finds, before any gradient.

They guess the LLM's next state after its last norm from the states of this token and the next token's embedding. With an attention and an
MLP that add nothing yet, the SSM then names a quarter of the LLM's next tokens. Used by ``hidden_training``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.training.hidden_data import HiddenBatch, HiddenDialogues
from specgrove.training.target import TargetEnds

_RIDGE = 1e-3  # of each feature's own square, and a tenth of it of their mean
_FIRST_STD = 0.02  # of matrices that have nothing to start from
_NUM_DIALOGUES = 16  # read at a time


@dataclass(frozen=True, slots=True)
class Explained:
    """Shares of the variance of the LLM's next state that the maps explain."""

    from_hidden_states: float
    from_own_states: float


class _Normal:
    """The normal equations of one regression, summed up batch by batch."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        self._features = torch.zeros(num_features, num_features)
        self._products = torch.zeros(num_features, num_outputs)
        self._square = 0.0

    def add(self, features: torch.Tensor, outputs: torch.Tensor) -> None:
        """Rows of both."""
        self._features += features.T @ features
        self._products += features.T @ outputs
        self._square += float(outputs.square().sum())

    def solved(self) -> tuple[torch.Tensor, float]:
        """The map ``[num_outputs, num_features]`` and the share that it explains."""
        diagonal = self._features.diagonal()
        ridge = torch.diag(_RIDGE * (diagonal + 0.1 * diagonal.mean()) + 1e-6)
        solution = torch.linalg.solve(self._features + ridge, self._products)
        told = 2 * (solution * self._products).sum() - (solution * (self._features @ solution)).sum()
        return solution.T.contiguous(), float(told) / max(1e-9, self._square)


@torch.no_grad()
def start(
    module: HiddenStateModule, data: HiddenDialogues, ends: TargetEnds, num_rows: int, generator: torch.Generator
) -> Explained:
    """Sets all of the module's tensors; looks at about ``num_rows`` tokens of the data."""
    spec = module.spec
    hidden = spec.hidden_size
    by_taps = _Normal(spec.num_hidden_layers * spec.target_hidden_size + hidden, hidden)
    by_state = _Normal(2 * hidden, hidden)
    gain = ends.state_gain
    num_seen = 0
    for first in range(data.num_held_out, len(data), _NUM_DIALOGUES):
        batch = data.batch(range(first, min(first + _NUM_DIALOGUES, len(data))))
        taps, last, embeddings, is_made = _features(module, batch, ends)
        by_taps.add(torch.cat([taps[:, :-1], embeddings], dim=-1)[is_made], last[:, 1:][is_made])
        by_state.add(torch.cat([last[:, :-1] * gain, embeddings], dim=-1)[is_made], last[:, 1:][is_made])
        num_seen += int(is_made.sum())
        if num_seen >= num_rows:
            break
    of_taps, explained_by_taps = by_taps.solved()
    of_state, explained_by_state = by_state.solved()
    module.fc.weight.copy_(of_taps[:, :-hidden])
    module.embedding_residual.weight.copy_(of_taps[:, -hidden:])
    module.fed_back.weight.copy_(of_state[:, :hidden])
    module.fed_back_embedding.weight.copy_(of_state[:, hidden:])
    module.norm.weight.copy_(gain)
    layer = module.layer
    for linear in (layer.q_proj, layer.k_proj, layer.v_proj, layer.gate_proj, layer.up_proj):
        linear.weight.normal_(std=_FIRST_STD, generator=generator)
    for linear in (layer.o_proj, layer.down_proj):
        linear.weight.zero_()
    return Explained(explained_by_taps, explained_by_state)


def _features(
    module: HiddenStateModule, batch: HiddenBatch, ends: TargetEnds
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normed taps, the last state as the LLM's head reads it but for its gain, normed embeddings of the next tokens, and which count."""
    spec = module.spec
    shape = (spec.target_hidden_size,)
    taps = batch.hidden.chunk(spec.num_hidden_layers, dim=-1)
    normed = torch.cat([functional.rms_norm(tap, shape, eps=spec.norm_eps) for tap in taps], dim=-1)
    embeddings = module.layer.input_norm(ends.embedding[batch.token_ids[:, 1:]])
    return normed, ends.normed_state(taps[-1]), embeddings, batch.is_made[:, 1:]
