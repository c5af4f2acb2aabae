"""The verifier engine: a ``step`` begins forward passes over the items under way, and applies the oldest.

Driven by a ``StepLoop``, on whose thread everything here happens. ``Items`` has the sessions and their work, and ``Room`` decides who has
KV slots. A pass that fails costs no one but the item that it fails with: its items are computed again, each in passes of its own, and the
one that fails there too is given up.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from llm_service.acceptance import Answers, accept
from llm_service.config import VerifierConfig
from llm_service.counts import VerifierCounts
from llm_service.items import Items
from llm_service.outbox import Outbox, Result
from llm_service.pass_planner import PassPlanner
from llm_service.passes import (
    KnownInFlight,
    Pass,
    PassPart,
    TreeInFlight,
    answers_by_tree,
    log_probs_by_prompt,
    next_pass,
    pass_of,
)
from llm_service.room import Room
from llm_service.session import PendingWork
from llm_service.structure import Structures
from llm_service.work_check import check_work
from specgrove.errors import InternalError, SpecGroveError
from specgrove.kernels.rows import PassRows
from specgrove.loop.request import LogProbs, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.model_runner import Runner, step_ms
from specgrove.runtime.step_loop import FatalEngineError
from specgrove.telemetry.logs import of_requests

logger = logging.getLogger(__name__)

_SOON_S = 0.1  # in which a session that drafts will have its next tree
_MAX_NUM_FAILURES = 2


class VerifierEngine:
    """The ``Engine`` of the LLM service."""

    def __init__(
        self,
        runner: Runner,
        config: VerifierConfig,
        clock_s: Callable[[], float] = time.monotonic,
        structures: Structures = Structures(None),  # noqa: B008
    ) -> None:
        self._runner = runner
        self._config = config
        self._clock_s = clock_s
        self.structures = structures
        self.counts = VerifierCounts()
        self.reset()
        self._finished_s = 0.0  # when the last pass was

    def reset(self) -> None:
        """Forgets all sessions and all work."""
        self._room = Room(self._runner.num_slots, self.counts)
        self._outbox = Outbox(self._config.stream_interval_s, self._clock_s)
        self._items = Items(self._room, self._outbox, self.structures, self._clock_s)
        self._planner = PassPlanner(self._room, self._config, self._runner.max_num_in_flight)
        self._in_flight: deque[Pass] = deque()
        self._all_wait = False
        self._runner.discard()

    @property
    def num_sessions(self) -> int:
        """Sessions held."""
        return len(self._room)

    @property
    def num_waiting_sessions(self) -> int:
        """Sessions that wait for KV slots."""
        return sum(not session.is_admitted for session in self._room)

    @property
    def num_free_slots(self) -> int:
        """KV slots that no session holds."""
        return self._room.num_free

    def has_work(self) -> bool:
        """See ``Engine``. Items that wait for older sessions to go on or to end are none, until something happens or time has passed."""
        return bool(self._outbox or self._in_flight or (self._items.pending and not self._all_wait))

    def add(self, item_id: int, work: VerifyWork) -> None:
        """See ``Engine``. While an item of a session is under way, only one that opens it anew is taken: it replaces the first."""
        check_work(work, self._config, vocab_size=self._runner.spec.vocab_size, num_slots=self._runner.num_slots)
        self._all_wait = False
        self._items.add(item_id, work)

    def step(self) -> list[Result]:
        """See ``Engine``. Begins forward passes while the runner takes more, then finishes the oldest; results that wait go first."""
        self._items.fail_expired()
        if self._outbox:
            return self._outbox.take()
        has_begun = len(self._in_flight) > 0
        while len(self._in_flight) < self._runner.max_num_in_flight and self._start_forward():
            has_begun = True
        if self._in_flight and 0 < len(self._in_flight[0].trees) <= self._runner.max_num_ahead:
            self._run_ahead()
        if self._in_flight:
            self._finish_forward()
        self._outbox.put_progress(self._items.pending.values())
        self._all_wait = not has_begun
        return self._outbox.take()

    def _start_forward(self) -> bool:
        """Plans a pass over what is not in flight and begins it; False where there is nothing to do."""
        in_flight = {part.pending.session.session_id for begun in self._in_flight for part in begun.parts}
        parts = self._planner.next_parts(self._items.pending, in_flight, self._clock_s())
        self._outbox.put_unsent(
            [pending for pending in self._items.pending.values() if not pending.session.is_admitted]
        )
        if parts:
            self._begin(parts, lambda: pass_of(parts, choices_are_cheap=self._runner.choices_are_cheap))
        return bool(parts)

    def _run_ahead(self) -> None:
        """Begins the pass that follows the one in flight at once, where it is sure what will be in it and nobody would wait for it.

        Sessions that draft have their next trees soon: those would wait.
        """
        if len(self._in_flight) != 1 or not self._in_flight[0].surely_goes_on(self._items.pending.values()):
            return
        (before,) = self._in_flight
        soon_s = self._clock_s() - _SOON_S
        idle = (session for session in self._room if session.session_id not in self._items.pending)
        if any(session.last_used_s > soon_s for session in idle):
            return
        slots = self._room.take_for_now(len(before.trees))
        if slots is None:
            return
        parts = tuple(
            PassPart(tree.pending, len(tree.pending.session.slots), [slot])
            for tree, slot in zip(before.trees, slots, strict=True)
        )
        self._begin(parts, lambda: next_pass(before, parts))

    def _begin(self, parts: tuple[PassPart, ...], make: Callable[[], tuple[Pass, PassRows]]) -> None:
        try:
            begun, rows = make()
            self._runner.start(rows)
        except FatalEngineError:
            raise
        except Exception as error:
            self._undo_passes(parts, error)
        else:
            self._in_flight.append(begun)

    def _finish_forward(self) -> None:
        forward = self._in_flight.popleft()
        try:
            output = self._runner.finish()
        except FatalEngineError:
            raise
        except Exception as error:
            self._undo_passes(forward.parts, error)
            return
        now_s = time.perf_counter()
        # Where passes overlap, what one adds: it waited for the one before.
        pass_s = now_s - max(forward.started_s, self._finished_s)
        self._finished_s = now_s
        self.counts.add_pass(pass_s, forward.num_rows)
        for tokens, log_probs in log_probs_by_prompt(forward.known, output):
            if self._items.is_under_way(tokens.pending):
                self._tell_log_probs(tokens, log_probs)
        for tree, answers in answers_by_tree(forward.trees, output):
            if self._items.is_under_way(tree.pending):
                self._apply(tree, answers, pass_s * 1e3, forward.num_rows)
            else:  # closed or failed meanwhile
                self._room.free(tree.slots)

    def _tell_log_probs(self, tokens: KnownInFlight, log_probs: Sequence[LogProbs | None]) -> None:
        # Passes end in their order, and one that is computed again asks for what was not told: these are the next ones.
        assert tokens.start == tokens.pending.session.prompt_log_probs_start
        sound = [entry for entry in log_probs if entry is not None]
        if len(sound) < len(log_probs):
            self._items.fail(tokens.pending, InternalError("the model's logits can't be used: the logits hold NaN"))
        else:
            self._outbox.put_log_probs(tokens.pending, sound)

    def _undo_passes(self, failed: tuple[PassPart, ...], error: Exception) -> None:
        """After a pass that failed: its items have failed once more."""
        self.counts.num_failed_passes += 1
        logger.exception(
            "a forward pass failed; its %d items are computed again, apart from each other",
            len(failed),
            extra=of_requests(part.pending.session.session_id for part in failed),
        )
        self._discard_passes(failed)
        for part in failed:
            if self._items.is_under_way(part.pending):
                self._count_failure(part.pending, error)

    def _discard_passes(self, failed: tuple[PassPart, ...] = ()) -> None:
        """As if neither those begun nor the one that ``failed`` had been: nobody knows what is in their slots."""
        self._runner.discard()
        parts = [*failed, *(part for begun in self._in_flight for part in begun.parts)]
        self._in_flight.clear()
        for part in parts:
            self._room.free(part.tree_slots)
            if self._items.is_under_way(part.pending):
                part.pending.is_in_flight = False
                self._room.cut(part.pending.session, part.start)

    def _count_failure(self, pending: PendingWork, error: Exception) -> None:
        pending.num_failures += 1
        if pending.num_failures >= _MAX_NUM_FAILURES:
            cause = f"{type(error).__name__}: {error}"
            self._items.fail(pending, InternalError(f"this request made the service fail twice ({cause})"))

    def _apply(self, tree: TreeInFlight, answers: Answers, step_ms: float, num_rows: int) -> None:
        """Gives the item its next verdict, or fails it."""
        pending = tree.pending
        try:
            acceptance = accept(pending.session, pending.tree, answers)
        except Exception as error:
            self._room.free(tree.slots)
            pending.is_in_flight = False
            if isinstance(error, SpecGroveError):
                self._items.fail(pending, error)
            elif isinstance(error, ValueError):
                self._items.fail(pending, InternalError(f"the model's logits can't be used: {error}"))
            else:
                logger.exception("its tree could not be walked", extra=of_requests([pending.session.session_id]))
                self._discard_passes()  # one that ran ahead took tokens over that are chosen again
                self._count_failure(pending, error)
            return
        base = len(pending.session.token_ids)
        has_more = self._items.commit(pending, tree.slots, acceptance)
        verdict = Verdict(
            base=base,
            token_ids=acceptance.token_ids,
            accepted_nodes=pending.sent_nodes(acceptance.accepted_nodes),
            log_probs=acceptance.log_probs,
            step_ms=step_ms,
            step_num_tokens=num_rows,
            has_more=has_more,
        )
        self._outbox.put_verdict(pending, verdict)

    def finish_early(self, item_ids: Collection[int]) -> None:
        """See ``Engine``. A prompt is read to its end: the next verdict is meant."""
        self._items.finish_early(item_ids)

    def has_more(self, result: Verdict | PromptProgress) -> bool:
        """See ``Engine``."""
        return isinstance(result, PromptProgress) or result.has_more

    def close_session(self, session_id: str) -> None:
        """See ``Engine``."""
        self._all_wait = False
        self._items.close_session(session_id)

    def expire_sessions(self) -> None:
        """See ``Engine``."""
        self._all_wait = False
        self._items.expire_sessions(self._config.session_ttl_s)

    def time_step(self, num_tokens: int) -> float | None:
        """Milliseconds of a pass of so many rows, on slots that are free now; ``None`` where they don't suffice or a pass is in flight."""
        slots = None if self._in_flight else self._room.take_for_now(num_tokens)
        if slots is None:
            return None
        try:
            return step_ms(self._runner, slots)
        finally:
            self._room.free(slots)
