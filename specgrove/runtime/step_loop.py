"""The thread that drives an engine: takes in what was submitted, lets the engine make one step, hands results out, again.

Both services run one. Everything an engine owns is touched by this thread alone, so engines need no locks. Iteration-level
batching follows from the order: whatever was submitted while a forward ran is part of the next plan. A step that does not end
is noticed (``Watchdog``): the process should then end, and be started again.
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
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from specgrove.errors import InternalError, SpecGroveError, UnavailableError, WorkLostError
from specgrove.runtime.watchdog import Watchdog
from specgrove.telemetry.logs import marked_request, of_requests

logger = logging.getLogger(__name__)

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

_IDLE_INTERVAL_S = 1.0


class FatalEngineError(RuntimeError):
    """An engine can't go on, whatever is dropped: the loop ends, and the process should."""


class HungEngineError(RuntimeError):
    """A step does not end. The thread can't be stopped: the process must end without waiting for it."""


@dataclass(frozen=True, slots=True)
class WorkItem(Generic[WorkT]):
    """Work under the number its result will carry."""

    item_id: int
    work: WorkT


class Engine(Protocol[WorkT, ResultT]):
    """What a step loop drives. All methods are called on the loop's thread."""

    def add(self, item: WorkItem[WorkT]) -> None:
        """Takes an item in; raises ``SpecGroveError`` to refuse it."""
        ...

    def has_work(self) -> bool:
        """Whether ``step`` would get anything done."""
        ...

    def step(self) -> list[tuple[int, ResultT | SpecGroveError]]:
        """Plans, runs and applies one forward pass; returns results by item id."""
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


@dataclass(frozen=True, slots=True)
class _UnderWay(Generic[WorkT, ResultT]):
    """An item's work, and who waits for its results."""

    work: WorkT
    future: Future[ResultT]
    on_partial: Callable[[ResultT], None] | None
    request_id: str | None
    """Whose lines those about it are."""


class StepLoop(Generic[WorkT, ResultT]):
    """Owns the thread. ``submit``, ``call`` and ``stop`` may be called from any thread."""

    def __init__(
        self,
        engine: Engine[WorkT, ResultT],
        name: str,
        *,
        step_timeout_s: float = math.inf,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``step_timeout_s`` is the most that a step may take, or a call between two steps."""
        self._engine = engine
        self._item_ids = itertools.count(1)
        self._under_way: dict[int, _UnderWay[WorkT, ResultT]] = {}
        self._inbox: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._wake_up = threading.Condition()
        self._is_stopping = False
        self._clock_s = clock_s
        self._busy_s = 0.0
        self.ended: Future[object] = Future()
        """Done when the thread is; raises ``RuntimeError`` where a defect ended it, or it hangs: the process should end too."""
        self.ended.set_running_or_notify_cancel()
        self._watchdog = Watchdog(step_timeout_s, clock_s, lambda message: self._end(HungEngineError(message)))
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

    def submit(self, work: WorkT, on_partial: Callable[[ResultT], None] | None = None) -> Future[ResultT]:
        """The last result to come, or the ``SpecGroveError`` that the engine gave.

        Results before the last one go to ``on_partial``, on the loop's thread.
        """
        future: Future[ResultT] = Future()
        request_id = marked_request()
        self._post(lambda: self._add(_UnderWay(work, future, on_partial, request_id)), future)
        return future

    def finish_early(self, is_meant: Callable[[WorkT], bool] = lambda work: True) -> None:
        """Makes the next result of such works, or of all that are under way, their last one: nobody wants more."""

        def tell() -> None:
            items = self._under_way.items()
            self._engine.finish_early([item_id for item_id, item in items if is_meant(item.work)])

        self.call(tell)

    def call(self, function: Callable[[], ValueT]) -> Future[ValueT]:
        """Runs a function on the engine's thread, between two steps."""
        future: Future[ValueT] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._post(run, future)
        return future

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

    def _post(self, action: Callable[[], None], future: Future[ValueT]) -> None:
        # A waiter that is cancelled must not cancel the future: this thread is the one that ends it.
        future.set_running_or_notify_cancel()
        with self._wake_up:
            if self._is_stopping:
                future.set_exception(UnavailableError("the service is stopping"))
                return
            self._inbox.append((action, future))
            self._wake_up.notify()

    def _add(self, under_way: _UnderWay[WorkT, ResultT]) -> None:
        item = WorkItem(next(self._item_ids), under_way.work)
        future = under_way.future
        try:
            self._engine.add(item)
        except SpecGroveError as error:
            future.set_exception(error)
        except Exception as error:
            logger.exception("an item could not be taken in", extra=of_requests([under_way.request_id]))
            future.set_exception(InternalError(f"{type(error).__name__}: {error}"))
        else:
            self._under_way[item.item_id] = under_way

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
            futures = [under_way.future for under_way in self._under_way.values()]
            for future in (*futures, *(future for _, future in self._inbox)):  # nobody waits for a thread that is gone
                future.set_exception(UnavailableError("the service is stopping"))

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
                actions = [action for action, _ in self._inbox]
                self._inbox.clear()
            self._turn(actions)

    def _turn(self, actions: list[Callable[[], None]]) -> None:
        started_s = self._clock_s()
        try:
            for action in actions:
                self._watchdog.begin()
                action()
            self._watchdog.begin()
            self._engine.expire_sessions()
            results = self._engine.step() if self._engine.has_work() else []
        except FatalEngineError:
            raise
        except Exception as error:
            request_ids = [under_way.request_id for under_way in self._under_way.values()]
            logger.exception(
                "a step failed; all sessions are dropped and will be replayed", extra=of_requests(request_ids)
            )
            self._engine.reset()
            # Most of them are innocent: their routers send the committed tokens again, and find out who isn't.
            message = f"a step failed: {type(error).__name__}: {error}"
            was_alone = len(self._under_way) == 1
            self._finish([(item_id, WorkLostError(message, was_alone=was_alone)) for item_id in self._under_way])
        else:
            self._finish(results)
        finally:
            self._watchdog.end()
            self._busy_s += self._clock_s() - started_s

    def _finish(self, results: list[tuple[int, ResultT | SpecGroveError]] | list[tuple[int, WorkLostError]]) -> None:
        for item_id, result in results:
            under_way = self._under_way.get(item_id)
            if under_way is None:
                logger.error("a result for item %d, which nobody waits for", item_id)
            elif isinstance(result, SpecGroveError):
                del self._under_way[item_id]
                under_way.future.set_exception(result)
            elif not self._engine.has_more(result):
                del self._under_way[item_id]
                under_way.future.set_result(result)
            elif under_way.on_partial is not None:
                under_way.on_partial(result)
