"""What an SSM that reads hidden states holds of a session: pairs of hidden states and the token that follows, up to the window.

Pair i is (hidden states of token i, token i + 1). Owned by ``HiddenStateSsm``. Invariant: pairs and unread rows follow one another without
a gap; where rows are missing, what was before them is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgrove.loop.verifier_knowledge import HiddenStates, joined
from specgrove.program.level_draft import DraftedLevels
from specgrove.runtime.hidden_state_runner import HiddenStatePass
from ssm_service.draft_tree import ROOT
from ssm_service.drafts import Cache
from ssm_service.nodes import Proposals

StateRow = tuple[torch.Tensor, int]
"""The states that a pass gave, float32 ``[num_rows, hidden_size]``, and a row of them."""


def rows_of(states: Sequence[StateRow]) -> torch.Tensor:
    """All of them, float32 ``[len(states), hidden_size]``: by one call where one pass gave them, for each takes tens of microseconds."""
    first = states[0][0]
    if all(matrix is first for matrix, _ in states):
        return first[[row for _, row in states]]
    return torch.stack([matrix[row] for matrix, row in states])


def one_after_another(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their rows, copied only where there are several parts."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclass(slots=True)
class PairCache(Cache):
    """``slots`` are those of pairs ``first_position`` and on."""

    first_position: int = 0
    unread: HiddenStates | None = None  # of the SSM's layers: those behind the pairs'
    # What the last pair's pass gave and its row there, or its call.
    last: tuple[HiddenStatePass, int] | DraftedLevels | None = None
    state_of: dict[int, StateRow] = field(default_factory=dict)  # by place in nodes, or ROOT
    first_choice: tuple[int, int] | None = None  # of the last draft: its token's position, and its id
    num_tested: int = 0  # first choices that were counted

    @property
    def is_empty(self) -> bool:
        """Whether no hidden states have come."""
        return not self.slots and self.unread is None

    @property
    def end_of_pairs(self) -> int:
        """The position of the first pair that isn't held."""
        return self.first_position + len(self.slots)

    @property
    def end_position(self) -> int:
        """That of the first row whose hidden states aren't known."""
        return self.end_of_pairs if self.unread is None else self.unread.end_position

    @property
    def last_pass(self) -> tuple[HiddenStatePass, int] | None:
        """What is known of the last pair as a pass gives it, and its row there."""
        if isinstance(self.last, DraftedLevels):
            assert self.last.root is not None, "it has read the pair"
            return HiddenStatePass(self.last.states[:1], self.last.root.candidates), 0
        return self.last

    def take_root(self, found: DraftedLevels, num_committed: int) -> Proposals:
        """What a call found of the last pair, which it has read; returns what may follow so many tokens: nothing where it is no numbers."""
        assert found.root is not None, "it has read the pair"
        self.state_of[ROOT], self.last, proposals = (found.states, 0), found, found.root.proposals
        if proposals:
            self.first_choice = num_committed, proposals[0][0]
        return proposals

    def take(self, states: HiddenStates, layers: tuple[int, ...], window: int) -> list[int]:
        """Rows that are new; behind a gap they are a new beginning. Returns slots that are free now."""
        if not self.is_empty and states.end_position <= self.end_position:
            return []
        freed: list[int] = []
        if self.is_empty or states.first_position > self.end_position:
            freed = self._drop_pairs(len(self.slots))
            self.first_position, self.unread, self.last = states.first_position, None, None
        rows = states.from_position(self.end_position).of_layers(layers)
        unread = self.unread = joined((self.unread, rows))
        assert unread is not None
        freed += self._drop_pairs(min(len(self.slots) + unread.num_tokens - window, len(self.slots)))
        if unread.num_tokens > window:
            self.unread = unread.newest(window)
            self.first_position = self.unread.first_position
        return freed

    def read(self, num_rows: int) -> HiddenStates:
        """The next rows; their pairs are held from now on."""
        unread = self.unread
        assert unread is not None
        end = unread.first_position + num_rows
        self.unread = unread.from_position(end) if end < unread.end_position else None
        rows = unread.before(end)
        assert rows is not None
        return rows

    def _drop_pairs(self, num_pairs: int) -> list[int]:
        """The oldest."""
        if num_pairs <= 0:
            return []
        dropped = list(self.slots[:num_pairs])
        del self.slots[:num_pairs]
        self.first_position += num_pairs
        return dropped
