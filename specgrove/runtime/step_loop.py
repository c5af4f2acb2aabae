"""The thread that drives an engine: takes in what was submitted, gives the engine its turn, hands results out, again.

Both services run one. Everything an engine owns is touched by this thread alone, so engines need no locks. Iteration-level batching
follows from the order: what was submitted while a pass ran is part of the next plan, or of a later one, where to take all of it in would
take longer than a short pass. Two mailboxes are all that crosses threads: the loop's own, and the one that an item's results go to
(``specgrove.serving.mailbox``). A turn that does not end is noticed (``Watchdog``): the process should then end, and be started again.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from specgrove.errors import InternalError, SpecGroveError, UnavailableError, WorkLostError
from specgrove.runtime.letters import Call, LastResult, Submitted
from specgrove.runtime.watchdog import Watchdog
from specgrove.serving.mailbox import Answer, Mailbox
from specgrove.telemetry.logs import of_requests

logger = logging.getLogger(__name__)

KeyT = TypeVar("KeyT")
WorkT = TypeVar("WorkT")
WorkT_contra = TypeVar("WorkT_contra", contravariant=True)
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

_IDLE_INTERVAL_S = 1.0
_MAX_OPENING_S = 0.01  # of processor time


class FatalEngineError(RuntimeError):
    """An engine can't go on, whatever is dropped: the loop ends, and the process should."""


class HungEngineError(RuntimeError):
    """A step does not end. The thread can't be stopped: the process must end without waiting for it."""


class Engine(Protocol[WorkT_contra, ResultT]):
    """What a step loop drives. All methods are called on the loop's thread."""

    def add(self, item_id: int, work: WorkT_contra) -> None:
        """Takes an item in; its results carry the number. Raises ``SpecGroveError`` to refuse it."""
        ...

    def has_work(self) -> bool:
        """Whether ``step`` would get anything done."""
        ...

    def step(self) -> list[tuple[int, ResultT | SpecGroveError]]:
        """Plans, runs and applies one pass; returns results by item id."""
        ...

    def has_more(self, result: ResultT) -> bool:
        """Whether further results of the same item follow this one."""
        ...

    def finish_early(self, item_ids: Collection[int]) -> None:
        """Makes the next result of these items their last one."""
        ...

    def close_session(self, session_id: str) -> None:
        """Forgets a session; its items under way finish with ``SessionClosedError`` in the next ``step``."""
        ...

    def expire_sessions(self) -> None:
        """Forgets sessions idle for too long. Called before every step, and about once a second when idle."""
        ...

    def reset(self) -> None:
        """Forgets everything, after a step that failed: routers replay."""
        ...


class StepLoop(Generic[WorkT, ResultT]):
    """Owns the thread. ``submit``, ``ask``, ``call`` and ``stop`` may be called from any thread."""

    def __init__(
        self,
        engine: Engine[WorkT, ResultT],
        name: str,
        *,
        pass_timeout_s: float = math.inf,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pass_timeout_s`` is the most that a step may take, or a call between two steps."""
        self._engine = engine
        self._item_ids = itertools.count(1)
        self._under_way: dict[int, Submitted[WorkT, ResultT]] = {}
        self._inbox: deque[Submitted[WorkT, ResultT] | Call[Any]] = deque()
        self._outgoing: dict[Mailbox[Any, ResultT], list[Answer[Any, ResultT]]] = {}  # of this turn
        self._wake_up = threading.Condition()
        self._is_stopping = False
        self._clock_s = clock_s
        self._busy_s = 0.0
        self.ended: Future[object] = Future()
        """Done when the thread is; raises ``RuntimeError`` where a defect ended it, or it hangs: the process should end too."""
        self.ended.set_running_or_notify_cancel()
        self._watchdog = Watchdog(pass_timeout_s, lambda message: self._end(HungEngineError(message)))
        self._watchdog.start(f"{name}-watchdog")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def num_pending_items(self) -> int:
        """Items submitted and not finished."""
        return len(self._under_way)

    @property
    def busy_s(self) -> float:
        """Time that the thread has worked, waits for devices and other ranks included: its share of a second is how busy the engine is."""
        return self._busy_s

    def submit(self, work: WorkT, mailbox: Mailbox[KeyT, ResultT], key: KeyT, *, request_id: str | None = None) -> None:
        """Work whose results, or the ``SpecGroveError`` that ends them, go to ``mailbox`` under ``key``.

        All results of a turn go there in one call. Lines of the log that are about the item are ``request_id``'s.
        """
        if not self._put(Submitted(work, mailbox, key, request_id)):
            mailbox.post([Answer(key, _stopping(), is_last=True)])

    def ask(self, work: WorkT, *, request_id: str | None = None) -> Future[ResultT]:
        """The last result to come, or the ``SpecGroveError`` that the engine gave."""
        mailbox = LastResult[ResultT]()
        self.submit(work, mailbox, None, request_id=request_id)
        return mailbox.future

    def finish_early(self, is_meant: Callable[[WorkT], bool] = lambda work: True) -> None:
        """Makes the next result of such works, or of all that are under way, their last one: nobody wants more."""

        def tell() -> None:
            items = self._under_way.items()
            self._engine.finish_early([item_id for item_id, item in items if is_meant(item.work)])

        self.call(tell)

    def call(self, function: Callable[[], ValueT]) -> Future[ValueT]:
        """Runs a function on the engine's thread, between two steps."""
        called = Call(function)
        if not self._put(called):
            called.future.set_exception(_stopping())
        return called.future

    def wake_up(self) -> None:
        """Has the thread look whether the engine has work: something else than its inbox has given it some."""
        with self._wake_up:
            self._wake_up.notify()

    def close_session(self, session_id: str) -> Future[None]:
        """Done when the session's KV slots are free."""
        return self.call(lambda: self._engine.close_session(session_id))

    def stop(self, timeout_s: float | None = None) -> bool:
        """Ends the thread after the step it is in, and waits for it; what is under way fails with ``UnavailableError``.

        Returns whether the thread has ended: a step may hang.
        """
        with self._wake_up:
            self._is_stopping = True
            self._wake_up.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, letter: Submitted[WorkT, ResultT] | Call[Any]) -> bool:
        """Into the inbox; False where nobody will look there any more."""
        with self._wake_up:
            if self._is_stopping:
                return False
            self._inbox.append(letter)
            self._wake_up.notify()
            return True

    def _run(self) -> None:
        failure: RuntimeError | None = None
        try:
            self._turn_until_stopped()
        except Exception as error:
            if not isinstance(error, FatalEngineError):
                logger.exception("the engine's thread failed")
            failure = RuntimeError(f"the engine's thread failed: {type(error).__name__}: {error}")
        finally:
            self._watchdog.stop()
            self._end(failure)
            self._refuse_what_is_left()

    def _refuse_what_is_left(self) -> None:
        """Nobody waits for a thread that is gone."""
        for letter in (*self._under_way.values(), *self._inbox):
            if isinstance(letter, Call):
                letter.future.set_exception(_stopping())
            else:
                self._answer(letter, _stopping(), is_last=True)
        self._hand_over()

    def _end(self, failure: RuntimeError | None) -> None:
        with self._wake_up:
            self._is_stopping = True
            if self.ended.done():  # it hung, and has come back after all
                return
            if failure is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(failure)

    def _turn_until_stopped(self) -> None:
        while True:
            with self._wake_up:
                if not self._inbox and not self._engine.has_work() and not self._is_stopping:
                    self._wake_up.wait(_IDLE_INTERVAL_S)
                if self._is_stopping:
                    return
            self._turn()

    def _turn(self) -> None:
        started_s = self._clock_s()
        try:
            self._open_some()
            self._hand_over()  # refusals don't wait for a pass
            self._watchdog.begin()
            self._engine.expire_sessions()
            results = self._engine.step() if self._engine.has_work() else []
        except FatalEngineError:
            raise
        except Exception as error:
            self._lose_all(error)
        else:
            for item_id, result in results:
                self._take(item_id, result)
        finally:
            self._hand_over()
            self._watchdog.end()
            self._busy_s += self._clock_s() - started_s

    def _open_some(self) -> None:
        """Of what is in the inbox now, what takes no longer than a short pass: the rest waits for the next turn, and no pass for it."""
        spent_s = time.thread_time()
        for _ in range(len(self._inbox)):
            self._watchdog.begin()
            self._open(self._inbox.popleft())
            if time.thread_time() - spent_s > _MAX_OPENING_S:
                return

    def _open(self, letter: Submitted[WorkT, ResultT] | Call[Any]) -> None:
        if isinstance(letter, Call):
            letter.run()
            return
        item_id = next(self._item_ids)
        try:
            self._engine.add(item_id, letter.work)
        except SpecGroveError as error:
            self._answer(letter, error, is_last=True)
        except Exception as error:
            logger.exception("an item could not be taken in", extra=of_requests([letter.request_id]))
            self._answer(letter, InternalError(f"{type(error).__name__}: {error}"), is_last=True)
        else:
            self._under_way[item_id] = letter

    def _lose_all(self, error: Exception) -> None:
        """After a step that failed. Most items are innocent: their routers send the committed tokens again, and find out who isn't."""
        lost = self._under_way
        request_ids = [submitted.request_id for submitted in lost.values()]
        logger.exception("a step failed; all sessions are dropped and will be replayed", extra=of_requests(request_ids))
        self._engine.reset()
        self._under_way = {}
        for submitted in lost.values():
            failure = WorkLostError(f"a step failed: {type(error).__name__}: {error}", was_alone=len(lost) == 1)
            self._answer(submitted, failure, is_last=True)

    def _take(self, item_id: int, result: ResultT | SpecGroveError) -> None:
        submitted = self._under_way.get(item_id)
        if submitted is None:
            logger.error("a result for item %d, which nobody waits for", item_id)
            return
        is_last = isinstance(result, SpecGroveError) or not self._engine.has_more(result)
        if is_last:
            del self._under_way[item_id]
        self._answer(submitted, result, is_last=is_last)

    def _answer(self, submitted: Submitted[WorkT, ResultT], result: ResultT | SpecGroveError, *, is_last: bool) -> None:
        self._outgoing.setdefault(submitted.mailbox, []).append(Answer(submitted.key, result, is_last))

    def _hand_over(self) -> None:
        """All answers of the turn, in one call to each mailbox."""
        outgoing, self._outgoing = self._outgoing, {}
        for mailbox, answers in outgoing.items():
            mailbox.post(answers)


def _stopping() -> UnavailableError:
    return UnavailableError("the service is stopping")
