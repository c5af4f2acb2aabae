"""What an SSM that reads hidden states holds of a session: pairs of hidden states and the token that follows, up to the window.

Pair i is (hidden states of token i, token i + 1). Owned by ``HiddenStateSsm``. Invariant: pairs and unread rows follow one another without
a gap; where rows are missing, what was before them is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.runtime.hidden_state_runner import HiddenStatePass
from specgrove.runtime.hidden_values import tensor_of
from ssm_service.drafts import Cache

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
    unread: torch.Tensor | None = None  # float32 [num_rows, L * target_hidden_size]: hidden states behind those pairs'
    last: tuple[HiddenStatePass, int] | None = None  # what the last pair's pass gave, and its row there
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
        return self.end_of_pairs + (0 if self.unread is None else self.unread.shape[0])

    def take(self, states: HiddenStates, layers: tuple[int, ...], window: int) -> list[int]:
        """Rows that are new; behind a gap they are a new beginning. Returns slots that are free now."""
        if not self.is_empty and states.end_position <= self.end_position:
            return []
        freed: list[int] = []
        if self.is_empty or states.first_position > self.end_position:
            freed = self._drop_pairs(len(self.slots))
            self.first_position, self.unread, self.last = states.first_position, None, None
        rows = tensor_of(states.of_layers(layers).from_position(self.end_position))
        self.unread = rows if self.unread is None else torch.cat([self.unread, rows])
        num_unread = self.unread.shape[0]
        freed += self._drop_pairs(min(len(self.slots) + num_unread - window, len(self.slots)))
        if num_unread > window:
            self.first_position += num_unread - window
            self.unread = self.unread[-window:]
        return freed

    def read(self, num_rows: int) -> torch.Tensor:
        """The next rows; their pairs are held from now on."""
        assert self.unread is not None
        unread, self.unread = self.unread, None
        if num_rows == unread.shape[0]:
            return unread
        self.unread = unread[num_rows:]
        return unread[:num_rows]

    def _drop_pairs(self, num_pairs: int) -> list[int]:
        """The oldest."""
        if num_pairs <= 0:
            return []
        dropped = list(self.slots[:num_pairs])
        del self.slots[:num_pairs]
        self.first_position += num_pairs
        return dropped
