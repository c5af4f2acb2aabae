"""The verifier engine: a ``step`` begins passes over the items under way, and applies the oldest.

Driven by a ``StepLoop``, on whose thread everything here happens. ``Items`` has the sessions and their work, ``Room`` decides who has
KV slots, ``PassPlanner`` what a pass computes; ``PassesInFlight`` has the passes, and ``Outbox`` the verdicts on their way out.

It works ahead in two ways. *Steps ahead*: where a router asks for several steps, each follows from the verdict before. A *pass ahead*
begins before the choices of the one before it are known here. ``FailedPasses`` takes passes back that fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from llm_service.config import VerifierConfig
from llm_service.counts import VerifierCounts
from llm_service.failed_passes import FailedPasses
from llm_service.for_drafters import top_k_of_rows
from llm_service.items import Items
from llm_service.node_answers import NodeAnswers
from llm_service.outbox import Outbox, Result
from llm_service.pass_planner import PassPlanner
from llm_service.passes import FinishedPass, PassPart
from llm_service.passes_in_flight import PassesInFlight
from llm_service.paying_rows import PayingRows
from llm_service.room import Room
from llm_service.structure import Structures
from llm_service.walks import Walked, Walks
from llm_service.work_check import check_work
from specgrove.errors import InternalError, SpecGroveError
from specgrove.loop.works import LogProbs, PromptProgress, Verdict, VerifyWork
from specgrove.runtime.idle_check import IdleCheck
from specgrove.runtime.model_runner import Runner, pass_ms
from specgrove.runtime.prefix_cache import PrefixCache
from specgrove.runtime.step_loop import FatalEngineError

_SOON_S = 0.1  # in which a session that drafts will have its next tree


class VerifierEngine:
    """The ``Engine`` of the LLM service."""

    def __init__(
        self,
        runner: Runner,
        config: VerifierConfig,
        clock_s: Callable[[], float] = time.monotonic,
        structures: Structures = Structures(None),  # noqa: B008
        paying_rows: PayingRows | None = None,
    ) -> None:
        self._runner = runner
        self._config = config
        self._clock_s = clock_s
        self.structures = structures
        self.counts = VerifierCounts()
        self._paying_rows = PayingRows() if paying_rows is None else paying_rows
        self._walks = Walks(config.num_walk_threads)
        self.reset()

    def reset(self) -> None:
        """Forgets all sessions and all work."""
        prefixes = PrefixCache() if self._config.has_prefix_cache else None
        self._room = Room(self._runner.num_slots, self.counts, prefixes)
        self._outbox = Outbox(self._config.stream_interval_s, self._clock_s)
        self._items = Items(self._room, self._outbox, self.structures, self._clock_s)
        self._planner = PassPlanner(self._room, self._config, self._runner.max_num_in_flight, self._paying_rows)
        self._passes = PassesInFlight(self._runner)
        self._failed_passes = FailedPasses(self._items, self._room, self._passes, self.counts)
        self._all_wait = False
        self._idle_check = IdleCheck(self.counts.num_passes, self._clock_s)

    @property
    def hidden_layers(self) -> range:
        """Layers whose hidden states sessions may ask for: of a model over pipeline stages those of the first."""
        return self._runner.decoder.hidden_layers

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
        """KV slots that no session holds: free, or the prefix cache's to give away."""
        return self._room.num_free

    @property
    def num_cached_slots(self) -> int:
        """KV slots of the prefix cache; sessions may hold them, too."""
        return self._room.num_cached

    def has_work(self) -> bool:
        """See ``Engine``. Items that wait for masks, or for older sessions to go on or to end, are none, until something
        happens or time has passed.
        """
        is_waiting = self._all_wait and not self.structures.has_news
        return bool(self._outbox or self._passes or (self._items.pending and not is_waiting))

    def add(self, item_id: int, work: VerifyWork) -> None:
        """See ``Engine``. While an item of a session is under way, only one that opens it anew is taken: it replaces the first."""
        check_work(
            work,
            self._config,
            vocab_size=self._runner.spec.vocab_size,
            num_slots=self._runner.num_slots,
            hidden_layers=self.hidden_layers,
        )
        self._all_wait = False
        self._items.add(item_id, work)
        if work.base == 0:
            self.counts.num_opened_tokens += len(work.new_token_ids)

    def step(self) -> list[Result]:
        """See ``Engine``. Begins passes while the runner takes more, then finishes the oldest; results that wait go first."""
        self._items.fail_expired()
        if self.structures.take_news():
            self._items.take_masks()
        if self._outbox:
            return self._outbox.take()
        has_begun = bool(self._passes)
        while self._passes.may_begin and self._begin_pass():
            has_begun = True
        self._begin_pass_ahead()
        self._outbox.put_unsent(pending for pending in self._items.pending.values() if pending.sits_out)
        if self._passes:
            self._finish_pass()
        self._outbox.put_progress(self._items.pending.values())
        self._all_wait = not has_begun
        return self._outbox.take()

    def _begin_pass(self) -> bool:
        """Plans a pass over what is not in flight and begins it; False where there is nothing to do."""
        parts = self._planner.next_parts(self._items.pending, self._passes.session_ids, self._clock_s())
        if parts:
            self._begin(parts, lambda: self._passes.begin(parts))
        return bool(parts)

    def _begin_pass_ahead(self) -> None:
        """Where it is sure what will be in the pass that follows the one in flight, and nobody would wait for it.

        Sessions that draft have their next trees soon: those would wait.
        """
        before = self._passes.before_pass_ahead(self._items.pending.values())
        if before is None:
            return
        soon_s = self._clock_s() - _SOON_S
        idle = (session for session in self._room if session.session_id not in self._items.pending)
        if any(session.last_used_s > soon_s for session in idle):
            return
        slots = self._room.take_for_now(len(before.parts))
        if slots is None:
            return
        parts = tuple(
            PassPart(part.pending, len(part.pending.session.slots), [slot])
            for part, slot in zip(before.parts, slots, strict=True)
        )
        self._begin(parts, lambda: self._passes.begin_ahead(before, parts))

    def _begin(self, parts: tuple[PassPart, ...], begin: Callable[[], None]) -> None:
        try:
            begin()
        except FatalEngineError:
            raise
        except Exception as error:
            self._failed_passes.undo(parts, error)

    def _finish_pass(self) -> None:
        parts = self._passes.oldest.parts
        try:
            finished = self._passes.finish()
        except FatalEngineError:
            raise
        except Exception as error:
            self._failed_passes.undo(parts, error)
            return
        self.counts.add_pass(finished.pass_s, finished.num_rows)
        self._paying_rows.observe(finished.num_rows, finished.pass_s * 1e3, self._clock_s())
        for part in finished.parts:
            if part.chunk_end > part.start and self._items.is_under_way(part.pending):
                self._room.share(part.pending.session, part.chunk_end)
        for part, log_probs in finished.log_probs():
            if self._items.is_under_way(part.pending):
                self._tell_log_probs(part, log_probs)
        for part in finished.parts:
            if part.hidden_positions and self._items.is_under_way(part.pending):
                self._tell_hidden_states(part, finished)
        self._items.wait_for_masks(part.pending for part in finished.parts if part.tree_slots)
        self._apply_answers(finished)

    def _apply_answers(self, finished: FinishedPass) -> None:
        ready: list[tuple[PassPart, NodeAnswers]] = []
        for part, answers in finished.answers():
            if not self._items.is_under_way(part.pending):  # closed or failed meanwhile
                self._room.free(part.tree_slots)
            elif part.pending.has_masks:
                ready.append((part, answers))
            else:
                self._put_back(part)  # its masks are not there
        walked = self._walks.walk([(part.pending, answers) for part, answers in ready])
        for (part, answers), found in zip(ready, walked, strict=True):
            self._apply(part, answers, found, finished)

    def _put_back(self, part: PassPart) -> None:
        self._room.free(part.tree_slots)
        if self._items.put_back(part.pending):
            self.counts.num_late_masks += 1

    def _tell_log_probs(self, part: PassPart, log_probs: Sequence[LogProbs | None]) -> None:
        # Passes end in their order, and one that is computed again asks for what was not told: these are the next ones.
        assert part.known_places.start == part.pending.session.prompt_log_probs_start
        sound = [entry for entry in log_probs if entry is not None]
        if len(sound) < len(log_probs):
            self._items.fail(part.pending, InternalError("the model's logits can't be used: the logits hold NaN"))
        else:
            self._outbox.put_log_probs(part.pending, sound)

    def _tell_hidden_states(self, part: PassPart, finished: FinishedPass) -> None:
        states = finished.hidden_states_of_chunk(part)
        assert states is not None
        assert states.first_position == part.pending.session.hidden_start  # as with log-probabilities
        self._outbox.put_hidden_states(part.pending, states)

    def _apply(self, part: PassPart, answers: NodeAnswers, walked: Walked, finished: FinishedPass) -> None:
        """Gives the item its next verdict, or fails it."""
        pending = part.pending
        if isinstance(walked, Exception):
            self._room.free(part.tree_slots)
            pending.is_in_flight = False
            if isinstance(walked, SpecGroveError):
                self._items.fail(pending, walked)
            elif isinstance(walked, ValueError):
                self._items.fail(pending, InternalError(f"the model's logits can't be used: {walked}"))
            else:
                self._failed_passes.undo_walk(pending, walked)
            return
        acceptance = walked
        hidden_states = finished.hidden_states_of_path(part, acceptance.accepted_nodes)
        row_top_k = top_k_of_rows(pending, answers)
        base, accepted_nodes = len(pending.session.token_ids), pending.sent_nodes(acceptance.accepted_nodes)
        left_out_nodes = pending.left_out_nodes_with(acceptance.unchosen_node)
        num_cached_tokens = pending.session.take_num_reused()
        has_more = self._items.commit(pending, part.tree_slots, acceptance)
        verdict = Verdict(
            base=base,
            token_ids=acceptance.token_ids,
            accepted_nodes=accepted_nodes,
            left_out_nodes=left_out_nodes,
            log_probs=acceptance.log_probs,
            pass_ms=finished.pass_s * 1e3,
            pass_num_rows=finished.num_rows,
            has_more=has_more,
            hidden_states=hidden_states,
            row_top_k=row_top_k,
            num_cached_tokens=num_cached_tokens,
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
        is_idle = not self._passes and not self._items.pending
        if is_idle and self._idle_check.is_due(self.counts.num_passes):
            self.check_slots()  # what it raises makes the loop begin anew

    def check_slots(self) -> None:
        """Raises ``RuntimeError`` where a KV slot has no owner, or two."""
        self._room.check(slot for begun in self._passes for part in begun.parts for slot in part.tree_slots)

    def learn_pass_times(self, times: Sequence[tuple[int, float]]) -> None:
        """(rows, ms) as they were measured by ``time_pass``: the least of several, for what else runs on the machine only adds."""
        self._paying_rows.row_times.learn_measured(times)

    def time_pass(self, num_tokens: int) -> float | None:
        """Milliseconds of a pass of so many rows, on slots that are free now; ``None`` where they don't suffice or a pass is in flight."""
        slots = None if self._passes else self._room.take_for_now(num_tokens)
        if slots is None:
            return None
        try:
            return pass_ms(self._runner, slots)
        finally:
            self._room.free(slots)
