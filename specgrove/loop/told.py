"""What the verifier has told of a session, kept for its drafters. Written by the verifier side of a request, read by each drafter's.

Hidden states are kept as far back as the SSMs' window reaches, told or not: a drafter that is not asked for a while, or begins anew, gets
them then. Invariant: what is kept are rows without a gap, the newest ones, and not more than a message can carry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from specgrove.config import MAX_HIDDEN_BYTES
from specgrove.loop.verifier_knowledge import DrafterWishes, HiddenStates, RowTopK, joined
from specgrove.loop.works import PromptProgress, Verdict

# Of rows whose most probable tokens are told. A drafter that is not asked for longer misses the oldest.
_MAX_NUM_ROWS = 1024


class Told:
    """Of one request."""

    def __init__(self, wishes: DrafterWishes) -> None:
        self.wishes = wishes
        self._hidden: deque[HiddenStates] = deque()
        self._num_hidden = 0
        self._rows: deque[RowTopK] = deque(maxlen=_MAX_NUM_ROWS)
        self.num_rows = 0
        """Rows whose most probable tokens have been told so far."""

    def add(self, answer: Verdict | PromptProgress) -> None:
        """What an answer tells. Rows that were told before, as by a replica that a request is replayed at, count once."""
        if isinstance(answer, Verdict):
            self._add_rows(answer.row_top_k)
        if answer.hidden_states is not None and self.wishes.hidden_layers:
            self._add_hidden(answer.hidden_states)

    def hidden_states(self, start: int, end: int) -> HiddenStates | None:
        """Of the rows kept, those from position ``start`` on and before ``end``."""
        parts = []
        for piece in reversed(self._hidden):
            if piece.end_position <= start:
                break
            parts.append(piece.from_position(start))
        found = joined(parts[::-1])
        return None if found is None else found.before(end)

    def rows_since(self, num_rows: int) -> tuple[RowTopK, ...]:
        """Those that came when ``num_rows`` had been told, as far as they are kept."""
        num_new = min(self.num_rows - num_rows, len(self._rows))
        return tuple(self._rows)[len(self._rows) - num_new :] if num_new else ()

    def _add_rows(self, rows: Iterable[RowTopK]) -> None:
        for row in rows:
            self._rows.append(row)
            self.num_rows += 1

    def _add_hidden(self, states: HiddenStates) -> None:
        if self._hidden:
            last = self._hidden[-1]
            if states.end_position <= last.end_position:
                return
            if states.first_position > last.end_position or states.layers != last.layers:
                self._hidden.clear()
                self._num_hidden = 0
            else:
                states = states.from_position(last.end_position)
        self._hidden.append(states)
        self._num_hidden += states.num_tokens
        max_num_tokens = max(min(self.wishes.hidden_window, MAX_HIDDEN_BYTES // states.row_bytes), 1)
        while self._num_hidden - self._hidden[0].num_tokens >= max_num_tokens:
            self._num_hidden -= self._hidden.popleft().num_tokens
