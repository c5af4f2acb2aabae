"""The passes that the runner has begun and not finished, oldest first. Owned by the engine, which decides what is in them.

Several are in flight where the model has pipeline stages, or where a pass ahead follows one. Invariant: the runner has begun just these.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator

from llm_service.passes import FinishedPass, Pass, PassPart, pass_ahead, pass_of
from llm_service.session import PendingWork
from specgrove.kernels.rows import PassRows
from specgrove.runtime.hidden_values import PassValues
from specgrove.runtime.model_runner import Runner


class PassesInFlight:
    """Of one runner."""

    def __init__(self, runner: Runner) -> None:
        """Whatever the runner had begun is forgotten."""
        self._runner = runner
        self._passes: deque[Pass] = deque()
        self._finished_s = 0.0  # when the last pass was
        self._hidden_layers: tuple[int, ...] = ()  # that any pass has handed out
        runner.discard()

    def __len__(self) -> int:
        return len(self._passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self._passes)

    @property
    def oldest(self) -> Pass:
        """The one that ends next."""
        return self._passes[0]

    @property
    def may_begin(self) -> bool:
        """Whether the runner takes another one."""
        return len(self._passes) < self._runner.max_num_in_flight

    @property
    def session_ids(self) -> set[str]:
        """Sessions that have a part in one."""
        return {part.pending.session.session_id for begun in self._passes for part in begun.parts}

    def begin(self, parts: tuple[PassPart, ...]) -> None:
        """Raises what the runner does; then it has not begun."""
        self._start(*pass_of(parts, self._hidden_layers, choices_are_cheap=self._runner.choices_are_cheap))

    def before_pass_ahead(self, pending: Collection[PendingWork]) -> Pass | None:
        """The only pass in flight, where a pass ahead may follow it."""
        going_on = [work for work in pending if work.session.num_uncached > 0 or work.may_verify(is_alone=True)]
        if len(self._passes) != 1 or not self.oldest.may_be_followed(going_on, self._runner.max_num_ahead):
            return None
        return self.oldest

    def begin_ahead(self, before: Pass, parts: tuple[PassPart, ...]) -> None:
        """A pass ahead after ``before``. Raises as ``begin``."""
        self._start(*pass_ahead(before, parts, self._hidden_layers))

    def _start(self, begun: Pass, rows: PassRows) -> None:
        self._runner.start(rows)
        self._passes.append(begun)
        self._hidden_layers = begun.hidden_layers or self._hidden_layers

    def finish(self) -> FinishedPass:
        """Waits for the oldest, which is in flight no more. Raises what the runner does."""
        finished = self._passes.popleft()
        output = self._runner.finish()
        now_s = time.perf_counter()
        pass_s = now_s - max(finished.started_s, self._finished_s)  # it waited for the one before
        self._finished_s = now_s
        hidden_values = PassValues(output.hidden) if output.hidden else None
        return FinishedPass(finished.parts, finished.num_rows, pass_s, output, finished.hidden_layers, hidden_values)

    def discard(self) -> list[PassPart]:
        """As if none had been begun: their parts."""
        self._runner.discard()
        parts = [part for begun in self._passes for part in begun.parts]
        self._passes.clear()
        return parts
