"""Results on their way out of the engine, and when verdicts of steps ahead, which follow one another quickly, share one.

Owned by the engine. Invariant: an item's results leave in the order of its steps, and none is left behind when the item ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llm_service.session import PendingWork
from specgrove.errors import SpecGroveError
from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.loop.works import LogProbs, PromptProgress, Verdict

_PROGRESS_INTERVAL_S = 0.2
_MAX_HIDDEN_BYTES = 2 << 20  # of a message

Result = tuple[int, Verdict | PromptProgress | SpecGroveError]


class Outbox:
    """``interval_s`` is the least time between two verdicts of an item that has more steps to make."""

    def __init__(self, interval_s: float, clock_s: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._clock_s = clock_s
        self._ready: list[Result] = []

    def __bool__(self) -> bool:
        return bool(self._ready)

    def take(self) -> list[Result]:
        """What is ready to be sent."""
        ready, self._ready = self._ready, []
        return ready

    def put_verdict(self, pending: PendingWork, verdict: Verdict) -> None:
        """An item's next verdict: it goes out now, or with a later one where others follow and the last is not long ago."""
        if pending.unsent is not None:
            verdict = pending.unsent.joined(verdict)
        pending.unsent = verdict
        if not verdict.has_more or self._clock_s() - pending.session.sent_s >= self._interval_s:
            self.put_unsent([pending])

    def put_unsent(self, works: Iterable[PendingWork]) -> None:
        """Lets nothing wait: what comes next may take long."""
        for pending in works:
            if pending.unsent is not None:
                self._ready.append((pending.item_id, pending.unsent))
                pending.unsent, pending.session.sent_s = None, self._clock_s()

    def put_error(self, pending: PendingWork, error: SpecGroveError) -> None:
        """The item's last result."""
        self.put_unsent([pending])
        self._ready.append((pending.item_id, error))

    def put_log_probs(self, pending: PendingWork, log_probs: Sequence[LogProbs]) -> None:
        """The next ones of its prompt. They go out at once, so that no more of them wait here than of a pass."""
        start = pending.session.prompt_log_probs_start
        end = start + len(log_probs)
        self._ready.append((pending.item_id, PromptProgress(end - 1, start, tuple(log_probs))))
        pending.session.prompt_log_probs_start = end

    def put_hidden_states(self, pending: PendingWork, states: HiddenStates) -> None:
        """The next ones of its window, in messages that are not too large."""
        max_num_tokens = max(_MAX_HIDDEN_BYTES // states.row_bytes, 1)
        for start in range(states.first_position, states.end_position, max_num_tokens):
            piece = states.from_position(start).before(start + max_num_tokens)
            assert piece is not None
            self._ready.append((pending.item_id, PromptProgress(piece.end_position, hidden_states=piece)))
        pending.session.hidden_start = states.end_position
        pending.session.has_told_hidden = True

    def put_progress(self, works: Iterable[PendingWork]) -> None:
        """Tells those who want it how far their prompts are, now and then. Prompts of a pass or two never get here."""
        now_s = self._clock_s()
        for pending in works:
            session = pending.session
            is_due = session.wants_prompt_progress and now_s - session.progress_s >= _PROGRESS_INTERVAL_S
            if is_due and session.slots and session.num_uncached > 0:
                self._ready.append((pending.item_id, PromptProgress(len(session.slots))))
                session.progress_s = now_s
