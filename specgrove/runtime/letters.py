"""What is put into a step loop's inbox, by any thread: an item, or a function to be run between two turns. Used by ``StepLoop``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from specgrove.errors import SpecGroveError
from specgrove.serving.mailbox import Answer, Mailbox

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Submitted(Generic[WorkT, ResultT]):
    """An item's work, and where its results go."""

    work: WorkT
    mailbox: Mailbox[Any, ResultT]
    key: object
    request_id: str | None
    """Whose lines of the log those about it are."""


class Call(Generic[ValueT]):
    """A function, and who waits for what it returns."""

    def __init__(self, function: Callable[[], ValueT]) -> None:
        self._function = function
        self.future = _future_of_another_thread()

    def run(self) -> None:
        """On the loop's thread."""
        try:
            self.future.set_result(self._function())
        except Exception as error:
            self.future.set_exception(error)


class LastResult(Generic[ResultT]):
    """The mailbox of one item of which only the last result is wanted."""

    def __init__(self) -> None:
        self.future = _future_of_another_thread()

    def post(self, answers: Sequence[Answer[None, ResultT]]) -> None:
        """See ``Mailbox``."""
        last = answers[-1]
        if isinstance(last.result, SpecGroveError):
            self.future.set_exception(last.result)
        elif last.is_last:
            self.future.set_result(last.result)


def _future_of_another_thread() -> Future[Any]:
    """A waiter that is cancelled must not cancel it: the loop's thread is the one that ends it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
