"""What the verifier has told of a session, kept for its drafters. Written by the verifier side of a request, read by each drafter's.

Hidden states are kept as far back as the SSMs' window reaches, told or not: a drafter that is not asked for a while, or begins anew, gets
them then. Invariant: what is kept are rows without a gap, the newest ones, and not more than a message can carry; and of all requests
together not more than there is room for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from specgrove.config import MAX_HIDDEN_BYTES, MAX_HIDDEN_BYTES_OF_ALL
from specgrove.loop.verifier_knowledge import DrafterWishes, HiddenStates, RowTopK, joined
from specgrove.loop.works import PromptProgress, Verdict

# Of rows whose most probable tokens are told. A drafter that is not asked for longer misses the oldest.
_MAX_NUM_ROWS = 1024


class HiddenRoom:
    """What hidden states may take of memory, over all requests of a router. Where it is full, those that were told longest ago go."""

    def __init__(self, max_bytes: int = MAX_HIDDEN_BYTES_OF_ALL) -> None:
        self._max_bytes = max_bytes
        self._told: dict[Told, None] = {}  # who was told something last is the last one
        self.num_bytes = 0
        """Kept now."""

    def take(self, told: Told, num_bytes: int) -> None:
        """More for a request, which has it already."""
        self._told.pop(told, None)
        self._told[told] = None
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes and len(self._told) > 1:
            oldest = next(iter(self._told))
            if not oldest.drop_oldest():
                del self._told[oldest]

    def give_back(self, num_bytes: int) -> None:
        """Less of some request."""
        self.num_bytes -= num_bytes

    def forget(self, told: Told) -> None:
        """A request has ended, and given back all that it had."""
        self._told.pop(told, None)


class Told:
    """Of one request."""

    def __init__(self, wishes: DrafterWishes, room: HiddenRoom | None = None) -> None:
        """Requests that share a ``room`` are bounded together."""
        self.wishes = wishes
        self._room = room or HiddenRoom()
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

    def drop_oldest(self) -> bool:
        """Forgets the oldest piece of hidden states; False where there is none."""
        if not self._hidden:
            return False
        piece = self._hidden.popleft()
        self._num_hidden -= piece.num_tokens
        self._room.give_back(len(piece.values))
        return True

    def close(self) -> None:
        """The request has ended."""
        while self.drop_oldest():
            pass
        self._room.forget(self)

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
                while self.drop_oldest():
                    pass
            else:
                states = states.from_position(last.end_position)
        self._hidden.append(states)
        self._num_hidden += states.num_tokens
        max_num_tokens = max(min(self.wishes.hidden_window, MAX_HIDDEN_BYTES // states.row_bytes), 1)
        while self._num_hidden - self._hidden[0].num_tokens >= max_num_tokens:
            self.drop_oldest()
        self._room.take(self, len(states.values))
