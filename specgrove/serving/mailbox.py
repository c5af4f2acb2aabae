"""How results leave an engine's thread: each item names a mailbox, which gets all of a turn's results for it at once.

Posted to by ``specgrove.runtime.step_loop``. A mailbox is whoever waits: a work stream, or an event loop in the same process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from specgrove.errors import SpecGroveError

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Answer(Generic[KeyT, ResultT]):
    """One result of an item, or the error that ended it. ``key`` is what the item was submitted under."""

    key: KeyT
    result: ResultT | SpecGroveError
    is_last: bool


class Mailbox(Protocol[KeyT, ResultT]):
    """Where answers go. Compared by identity."""

    def post(self, answers: Sequence[Answer[KeyT, ResultT]]) -> None:
        """Takes them, in their order. Called on the engine's thread, which it must not hold up; so it does not raise."""
        ...
