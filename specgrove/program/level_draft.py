"""What a program that goes on from its own states is asked for the levels of a draft, all in one call, and what it finds.

Asked by ``ssm_service.hidden_state``, run by ``CpuProgram.draft_levels`` (csrc/cpu/draft_levels.cpp). Which nodes are expanded there is a
guess at what ``DraftTree.grow`` will expand, by the same rules: the tree is ``DraftTree``'s, and a wrong guess costs a pass.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgrove.kernels.candidates import CandidateRow


@dataclass(frozen=True, slots=True)
class DraftLevel:
    """Of one depth, that of the root's children first."""

    num_children: int
    """Of each node that is expanded above; 0 ends the tree."""
    num_expanded: int
    """Nodes of this depth, at most."""
    choice: CandidateRow
    """Of the token after such a node."""


@dataclass(frozen=True, slots=True)
class LevelDraft:
    """One draft: what is known of its root, and how its tree grows."""

    context_slots: array[int]
    """int32: those of the committed tokens that its nodes see."""
    first_position: int
    """Of the root's children."""
    states: torch.Tensor
    """float32 ``[num_rows, hidden_size]``: the root's state is in row ``row``."""
    row: int
    proposals: Sequence[tuple[int, float]]
    """Token ids with their log-probabilities, most probable first: what may follow the root."""
    levels: Sequence[DraftLevel]
    slots: Sequence[int]
    """Where keys and values may go. A level that does not find enough of them is not drafted."""
    max_num_nodes: int
    min_level_prob: float
    num_kept: int
    """Proposals of a node that are told."""
    noise_weight: float
    vocab_size: int
    """Of the embedding: a node of another token id is fed id 0."""


@dataclass(frozen=True, slots=True)
class DraftedLevels:
    """Whole levels: node i has slot i of those that were given."""

    nodes: Sequence[tuple[int, int, float, list[tuple[int, float]]]]
    """Each one's parent, -1 for the root; its token id and log-probability; and what it proposes."""
    states: torch.Tensor
    """float32 ``[num_slots, hidden_size]``, the nodes' first."""
