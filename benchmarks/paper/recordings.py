"""What is recorded of one output: its tokens, the trees below every place of it, and both models' distributions at the nodes of the drawn
tree as the likeliest tokens and the mass of the rest. One file each, written once, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.paper.models import Nodes, Pair
from benchmarks.paper.trees import (
    MAX_WIDTH,
    NUM_INNER_NODES,
    NUM_NODES,
    PARENTS,
    depth_of,
    drawn,
    grow,
    ranked,
    ranked_with_noise,
)
from specgrove.kernels.sampling import ChoiceParams, gumbel_noise

Ints = npt.NDArray[np.int32]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Recording:
    """One output of ``num_tokens``. Trees are named by how their candidates were chosen; "first" are the root's five candidates.

    Of a greedy output there is the ranked tree only, and the other arrays are empty.
    """

    output_ids: Ints
    """``[num_tokens]``"""
    ranked: Ints
    """``[num_tokens, NUM_NODES]``: tree ``i`` follows ``i`` tokens of the output."""
    ranked_first: Ints
    """``[num_tokens, MAX_WIDTH]``"""
    noised: Ints
    noised_first: Ints
    drawn: Ints
    drawn_first: Ints
    token_ids: Ints
    """``[num_tokens, NUM_INNER_NODES, num_kept]``: tokens that are likely in either model, and those drawn, at nodes of the drawn tree."""
    target_log_probs: Halves
    draft_log_probs: Halves
    rest: npt.NDArray[np.float32]
    """``[num_tokens, NUM_INNER_NODES, 2]``: the mass of all other tokens, of the target and the draft."""

    @staticmethod
    def read(path: Path) -> Recording:
        """Raises ``ValueError``, ``OSError``, ``KeyError`` for a file that was not written by ``write``."""
        with np.load(path) as arrays:
            return Recording(*(arrays[field.name] for field in fields(Recording)))

    def write(self, path: Path) -> None:
        """All or nothing."""
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **{field.name: getattr(self, field.name) for field in fields(self)})
        partial.rename(path)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a recording depends on beside the models and the prompt."""

    max_tokens: int
    temperature: float
    """Of the sampled outputs, of target and draft."""
    draft_weight: float
    """Of the draft's log-probabilities against the noise."""
    num_kept: int

    def folder_name(self, pair: Pair, precisions: Sequence[str]) -> str:
        """Recordings of the same models and settings lie together, and no others."""
        told = json.dumps([pair.digest, *precisions, *(getattr(self, field.name) for field in fields(self))])
        return f"{'-'.join(pair.names).replace('/', '--')}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def record(
    pair: Pair, prompt_ids: Sequence[int], seed: int, settings: Settings, num_at_once: int, *, is_sampled: bool
) -> Recording:
    """Makes the LLM's output, then the trees, ``num_at_once`` of them in a pass."""
    params = ChoiceParams(temperature=settings.temperature if is_sampled else 0.0, seed=seed)
    output = pair.output(prompt_ids, params, settings.max_tokens)
    token_ids = [*prompt_ids, *output]
    noise = _Noise(seed, pair.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(output), num_at_once):
        lengths = [len(prompt_ids) + place for place in range(start, min(start + num_at_once, len(output)))]
        part = {}
        part["ranked"], part["ranked_first"], _ = grow(
            pair.ssm, token_ids, lengths, _unscaled, ranked, keeps_log_probs=False
        )
        if is_sampled:
            scaled = _scaled_by(settings.temperature)
            pick = ranked_with_noise(noise.at, settings.draft_weight)
            part["noised"], part["noised_first"], _ = grow(
                pair.ssm, token_ids, lengths, scaled, pick, keeps_log_probs=False
            )
            tokens, first, draft = grow(pair.ssm, token_ids, lengths, scaled, drawn(generator), keeps_log_probs=True)
            assert draft is not None
            part["drawn"], part["drawn_first"] = tokens, first
            inner = [Nodes(row[:NUM_INNER_NODES], PARENTS[:NUM_INNER_NODES], 0, NUM_NODES) for row in tokens.tolist()]
            target = scaled(pair.llm.below([length - 1 for length in lengths], inner)).view(draft.shape)
            part |= _kept(target, draft, tokens, first, settings.num_kept)
        parts.append(part)
    return _joined(output, parts)


class _Noise:
    """The verifier's, of all tokens at a position, made once."""

    def __init__(self, seed: int, vocab_size: int) -> None:
        self._seed, self._token_ids = seed, torch.arange(vocab_size)
        self._made: dict[int, torch.Tensor] = {}

    def at(self, position: int) -> torch.Tensor:
        if position not in self._made:
            if len(self._made) > 64:
                self._made.clear()
            self._made[position] = gumbel_noise(self._seed, position, self._token_ids)
        return self._made[position]


def _unscaled(log_probs: torch.Tensor) -> torch.Tensor:
    return log_probs


def _scaled_by(temperature: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda log_probs: (log_probs / temperature).log_softmax(-1)


def _kept(
    target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, first: torch.Tensor, num_kept: int
) -> Mapping[str, torch.Tensor]:
    """Both distributions at the ``num_kept`` tokens that are likeliest in either; drawn tokens are always among them."""
    scores = torch.maximum(target, draft)
    for node in range(NUM_INNER_NODES):
        children = [child for child in range(NUM_NODES) if depth_of(child) == depth_of(node) + 1]
        # Equal siblings are one node to the rules, with the children of both.
        scores[:, node].scatter_(1, tokens[:, children], 1.0)  # above any log-probability
    scores[:, 0].scatter_(1, first, 1.0)
    token_ids = scores.topk(num_kept, dim=-1).indices.sort(dim=-1).values  # equal nodes have equal rows
    targets, drafts = target.gather(2, token_ids), draft.gather(2, token_ids)
    rest = torch.stack([1 - targets.exp().sum(-1), 1 - drafts.exp().sum(-1)], dim=-1).clamp(min=0.0)
    return {
        "token_ids": token_ids, "target_log_probs": targets.half(), "draft_log_probs": drafts.half(), "rest": rest,
    }  # fmt: skip


def _joined(output: Sequence[int], parts: Sequence[Mapping[str, torch.Tensor]]) -> Recording:
    def array(name: str) -> npt.NDArray[np.generic]:
        if name == "output_ids":
            return np.array(output, np.int32)
        if name not in parts[0]:
            return np.zeros(0, np.int32)
        joined = torch.cat([part[name] for part in parts])
        return joined.numpy() if joined.is_floating_point() else joined.int().numpy()

    return Recording(*(array(field.name) for field in fields(Recording)))  # type: ignore[arg-type]


MIN_NUM_KEPT = 2 * MAX_WIDTH
"""Room for what was drawn at one node."""
