"""Sessions of the toy services, kept as strictly as the real services keep theirs (``tests/conformance`` asks the same of both)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from specgrove.errors import InvalidRequestError, SessionClosedError, StaleBaseError


@dataclass(slots=True, eq=False)
class ToySession:
    """What a service holds of one request."""

    params: Any = None
    token_ids: list[int] = field(default_factory=list)
    num_steps: int = 0
    is_under_way: bool = False
    finishes_early: bool = False
    is_closed: bool = False


class ToySessions(dict[str, ToySession]):
    """By their ids."""

    def take_in(self, session_id: str, base: int, new_token_ids: Sequence[int], params: Any = None) -> ToySession:
        """The session with its new tokens, an item of it under way. A base of 0 opens it anew; another must be what is held."""
        if not 1 <= len(session_id) <= 64:
            raise InvalidRequestError.of("session_id", "must have 1 to 64 characters")
        if base == 0:
            self.close(session_id)
            self[session_id] = ToySession(params)
        session = self.get(session_id)
        held_len = len(session.token_ids) if session is not None and not session.is_under_way else 0
        if session is None or session.is_under_way or base != held_len:
            raise StaleBaseError(held_len)
        session.token_ids.extend(new_token_ids)
        session.is_under_way, session.finishes_early = True, False
        return session

    def is_under_way(self, session_id: str) -> bool:
        """Whether an item of it is."""
        return session_id in self and self[session_id].is_under_way

    def close(self, session_id: str) -> None:
        """Forgets it; whoever waits for its item is told."""
        session = self.pop(session_id, None)
        if session is not None:
            session.is_closed = True

    def check(self, session_id: str, session: ToySession) -> None:
        """Raises ``SessionClosedError`` where it was closed or opened anew, ``StaleBaseError`` where it was forgotten."""
        if session.is_closed:
            raise SessionClosedError("the session was closed or opened anew")
        if self.get(session_id) is not session:
            raise StaleBaseError(0)
