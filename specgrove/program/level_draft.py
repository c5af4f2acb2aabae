"""What a program that goes on from its own states is asked for the levels of a draft, all in one call, and what it finds.

The call begins with the committed tokens that another program over the same weights is to read, where there are any.

Asked by ``ssm_service.hidden_state``, run by ``CpuProgram.draft_levels`` (csrc/cpu/draft_levels.cpp). Which nodes are expanded there is a
guess at what ``DraftTree.grow`` will expand, by the same rules: the tree is ``DraftTree``'s, and a wrong guess costs a pass.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgrove.kernels.candidates import CandidateRow
from specgrove.program.backend import Candidates
from specgrove.program.output_ops import Shortlist


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
class KnownRoot:
    """All committed tokens have been read, and this is what was found."""

    states: torch.Tensor
    """float32 ``[num_rows, hidden_size]``: the root's state is in row ``row``."""
    row: int
    proposals: Sequence[tuple[int, float]]
    """Token ids with their log-probabilities, most probable first: what may follow the root."""


@dataclass(frozen=True, slots=True)
class UnreadRows:
    """The last committed tokens, whose keys and values are not in place; the last of them is the root."""

    token_ids: array[int]
    """int64."""
    hidden: bytes
    """bfloat16 ``[num_rows, width]``, little endian: what the program takes of each."""
    choice: CandidateRow
    """Of the token after the root."""


@dataclass(frozen=True, slots=True)
class LevelDraft:
    """One draft: what is known of its root, and how its tree grows."""

    context_slots: array[int]
    """int32: those of the committed tokens that its nodes see, unread ones included."""
    first_position: int
    """Of the root's children."""
    root: KnownRoot | UnreadRows
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
class FoundRoot:
    """What was found of a root. Its candidates are seldom asked for again: they become tensors only then."""

    proposals: Sequence[tuple[int, float]]
    """As in ``KnownRoot``; none where its logits are no numbers."""
    shortlist: Shortlist
    places: array[int]
    logits: array[float]
    log_sum_exp: array[float]

    @property
    def candidates(self) -> Candidates:
        """Of its one row."""
        places = torch.frombuffer(self.places, dtype=torch.int32)[None]
        logits, log_sum_exp = (torch.frombuffer(part, dtype=torch.float32) for part in (self.logits, self.log_sum_exp))
        return Candidates.at(self.shortlist, places, logits[None], log_sum_exp)


@dataclass(frozen=True, slots=True)
class DraftedLevels:
    """Whole levels: node i has slot i of those that were given."""

    nodes: Sequence[tuple[int, int, float, list[tuple[int, float]]]]
    """Each one's parent, -1 for the root; its token id and log-probability; and what it proposes."""
    states: torch.Tensor
    """float32 ``[1 + num_slots, hidden_size]``: the root's where rows were read, then the nodes'."""
    root: FoundRoot | None
    """Where rows were read."""
