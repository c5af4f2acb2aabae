"""An SSM that reads the LLM's hidden states (EAGLE-3's kind): one layer with keys and values of its own, and the LLM's embedding and head.

Pair i is (hidden states of token i, token i + 1) and tells of token i + 2. Per session it keeps keys and values of the last pairs, of true
hidden states alone: what was drafted is forgotten, and one pass over the tokens that came out replaces it. That pass gives the tree's first
level, too; further levels read the layer's own states. Where hidden states are missing the session begins anew with those that come.

A tree that grows on while the verifier works reads the layer's own states as well. It may be the next tree, but not the beginning of a
further one: each draft begins with what true hidden states give.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import replace

import torch

from specgrove.errors import ResourceExhaustedError
from specgrove.kernels.candidates import CandidateRow
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates
from specgrove.loop.works import TreeShape
from specgrove.models.hidden_state.spec import HiddenSsmSpec
from specgrove.program.level_draft import DraftedLevels, KnownRoot, UnreadRows
from specgrove.runtime.hidden_state_runner import HiddenStatePass, HiddenStateRunner
from specgrove.runtime.hidden_values import tensor_of
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from ssm_service.draft_tree import ROOT, Beam, Expansion
from ssm_service.drafts import Draft, DraftRows, EndedDraft
from ssm_service.first_choices import NUM_OF_SESSION, FirstChoices
from ssm_service.growth import GrownRows
from ssm_service.hidden_passes import HiddenPasses, RowsToRun
from ssm_service.nodes import Nodes, Proposals
from ssm_service.one_call import compute_levels, is_short
from ssm_service.pair_cache import PairCache, one_after_another, rows_of
from ssm_service.pass_drafter import ChunkBudget, PassDrafter
from ssm_service.proposing import NUM_AHEAD, best_proposals, row_of


class HiddenStateSsm(PassDrafter[PairCache]):
    """One such SSM."""

    def __init__(
        self,
        name: str,
        spec: HiddenSsmSpec,
        runner: HiddenStateRunner,
        rule: Beam | Expansion,
        *,
        vocabulary: Vocabulary,
        first_choices: FirstChoices | None = None,
        max_num_chunk_tokens: int = 256,
    ) -> None:
        # Without a prefix cache: why stands in docs/kv-cache.md.
        super().__init__(name, rule, vocabulary, runner.num_slots, spec.max_position_embeddings, max_num_chunk_tokens)
        self.spec = spec
        self.runner = runner
        self.first_choices = first_choices or FirstChoices(name, spec.first_choice_floor)
        self._window = min(spec.hidden_window, runner.num_slots)
        self._pass: HiddenPasses | None = None
        self._lost: set[str] = set()  # sessions whose hidden states were dropped for want of room

    @property
    def num_parameters(self) -> int:
        """See ``PassDrafter``."""
        return self.spec.num_parameters

    def _new_cache(self) -> PairCache:
        return PairCache()

    # What it is told.

    def problem_of(self, states: HiddenStates) -> str | None:
        """Why it can't read them; ``None`` where it can."""
        wanted, size = self.spec.hidden_layers, self.spec.target_hidden_size
        if missing := sorted(set(wanted) - set(states.layers)):
            return f"SSM {self.name} reads the layers {list(wanted)}, and {missing} are missing"
        return (
            None if states.hidden_size == size else f"SSM {self.name} reads states of {size}, got {states.hidden_size}"
        )

    def read_states(self, session_id: str, states: HiddenStates | None, *, is_tested: bool = True) -> None:
        """Hidden states of committed tokens, if any came, at all its layers and maybe at others; those that it has are left out.

        ``is_tested``: whether the session's tokens tell how good its first choices are.
        """
        if states is not None:
            self.slots.free(self._cache_of(session_id).take(states, self.spec.hidden_layers, self._window))
        if not is_tested and session_id in self._caches:
            self._caches[session_id].num_tested = NUM_OF_SESSION

    def take_loss(self, session_id: str) -> bool:
        """Whether hidden states of a session were dropped since this was asked last: nobody sends them by himself."""
        is_lost = session_id in self._lost
        self._lost.discard(session_id)
        return is_lost

    def _evict(self, session_id: str) -> None:
        super()._evict(session_id)
        self._lost.add(session_id)

    def drop(self, session_id: str) -> None:
        """See ``PassDrafter``."""
        super().drop(session_id)
        self._lost.discard(session_id)

    def begin(
        self,
        session_id: str,
        token_ids: list[int],
        shape: TreeShape,
        sampling: DraftSampling | None,
        ahead_s: float = 0.0,
        cache_salt: str | None = None,
    ) -> bool:
        """See ``PassDrafter``: False when the sequence is too long, the last rows' hidden states are missing, or it is left out."""
        if len(token_ids) > self.max_model_len or not self.first_choices.takes_part():
            self.drop(session_id)
            return False
        self.stop(session_id)
        cache = self._cache_of(session_id)
        self.slots.free(cache.nodes.slots)
        cache.nodes = Nodes()
        cache.state_of = {}
        self._test_first_choice(cache, token_ids)
        if cache.is_empty or cache.end_position < len(token_ids) - 1:
            return False
        self._open(session_id, token_ids, cache, shape, sampling, ahead_s)
        return True

    def _test_first_choice(self, cache: PairCache, token_ids: list[int]) -> None:
        """Whether the last draft's was the token that came."""
        if cache.first_choice is not None and (position := cache.first_choice[0]) < len(token_ids):
            if cache.num_tested < NUM_OF_SESSION:
                cache.num_tested += 1
                self.first_choices.add(is_right=token_ids[position] == cache.first_choice[1])
            cache.first_choice = None

    # Passes.

    def start_pass(self) -> None:
        """See ``PassDrafter``."""
        begun = self._pass = HiddenPasses()
        budget = ChunkBudget(self._max_num_chunk_tokens)
        for session_id, draft in list(self._drafts.items()):
            cache = self._caches[session_id]
            num_missing = len(draft.token_ids) - 1 - cache.end_of_pairs
            draft.chunk_len = budget.take(num_missing)
            if num_missing and not draft.chunk_len:
                continue
            if not num_missing and not draft.expanded:  # nothing came since the draft before
                self._grow_from_last(session_id, draft, cache)
            if draft.is_complete:
                begun.finished.append(self._end(session_id))
                continue
            try:
                if draft.chunk_len == num_missing > 0 and self._is_one_call(draft, num_missing):
                    begun.alone.append(self._draft_alone(session_id, draft, cache))
                elif draft.chunk_len:
                    self._add_pairs(begun.extend, session_id, draft, cache)
                else:
                    self._add_level(begun.level, session_id, draft, cache)
            except ResourceExhaustedError:
                begun.finished.append(self._end_without_room(session_id))
        if not (begun.extend.parts or begun.level.parts or begun.alone or begun.finished):
            self._add_growth(begun.level)
        self.num_rows += begun.extend.builder.num_rows + begun.level.builder.num_rows
        if begun.extend.parts:
            self.runner.start_extend(begun.extend.builder.build(), one_after_another(begun.extend.fed))
        elif begun.level.builder.num_rows:
            self.runner.start_level(begun.level.builder.build(), one_after_another(begun.level.fed))

    def finish_pass(self) -> list[EndedDraft]:
        """See ``PassDrafter``."""
        assert self._pass is not None, "no pass was begun"
        begun, self._pass = self._pass, None
        if begun.extend.parts:
            self._take_pairs(begun.extend.parts, self.runner.finish())
            if begun.level.parts:
                self.runner.start_level(begun.level.builder.build(), one_after_another(begun.level.fed))
        if begun.level.parts:
            self._grow_rows(begun.level.parts, self.runner.finish())
        if begun.level.grown:
            self._take_growth(begun.level.grown, self.runner.finish())
        for part, proposals in begun.alone:
            self._grow([part], [proposals])
        parts = begun.extend.parts + begun.level.parts + [part for part, _ in begun.alone]
        return begun.finished + [self._end(part.session_id) for part in parts if part.draft.is_complete]

    def discard(self) -> None:
        """See ``PassDrafter``."""
        self._pass = None
        self.runner.discard()

    def level_ms(self, scratch_slots: list[int]) -> float:
        """See ``PassDrafter``."""
        builder = PassBuilder()
        num_rows = len(scratch_slots)
        builder.add([], tree=TreeRows([0] * num_rows, range(-1, num_rows - 1), scratch_slots))
        rows, fed = builder.build(), torch.zeros(num_rows, self.spec.hidden_size)
        started_s = time.perf_counter()
        self.runner.start_level(rows, fed)
        self._proposals([CandidateRow(0)] * num_rows, self.runner.finish(), 1)
        return (time.perf_counter() - started_s) * 1e3

    def _add_pairs(self, rows: RowsToRun, session_id: str, draft: Draft, cache: PairCache) -> None:
        token_ids, states = self._next_pairs(draft, cache)
        asked = rows.builder.add(cache.slots, token_ids, chunk_logits=True, first_position=cache.first_position)
        rows.fed.append(tensor_of(states))
        rows.parts.append(DraftRows(session_id, draft, asked, draft.tree.num_children()))

    def _next_pairs(self, draft: Draft, cache: PairCache) -> tuple[list[int], HiddenStates]:
        """Those of a draft's chunk, which have slots from now on."""
        first, chunk_len = cache.end_of_pairs, draft.chunk_len
        cache.slots.extend(self._allocate(chunk_len))
        self.read_counts.num_computed_tokens += chunk_len
        return self._fed(draft.token_ids[first + 1 : first + 1 + chunk_len]), cache.read(chunk_len)

    def _add_level(self, rows: RowsToRun, session_id: str, draft: Draft, cache: PairCache) -> None:
        draft.asked = draft.unknown()
        new = draft.new_rows(self._allocate(len(draft.asked)))
        asked = self._add_tree(rows, cache, new, [draft.place_of[node] for node in draft.asked])
        rows.parts.append(DraftRows(session_id, draft, asked, draft.tree.num_children()))

    def _add_growth(self, rows: RowsToRun) -> None:
        rows.grown = self._next_growth()
        for part in rows.grown:
            cache = self._caches[part.session_id]
            part.rows = self._add_tree(rows, cache, cache.nodes.rows(part.places), part.places)

    def _add_tree(self, rows: RowsToRun, cache: PairCache, new: TreeRows, places: list[int]) -> range:
        new = replace(new, token_ids=self._fed(list(new.token_ids)))
        rows.fed.append(rows_of([cache.state_of[cache.nodes.parents[place]] for place in places]))
        return rows.builder.add(cache.slots, (), new, first_position=cache.first_position)

    def _take_growth(self, grown: list[GrownRows], found: HiddenStatePass) -> None:
        rows = []
        for part in grown:
            growth, nodes = part.growth, part.growth.cache.nodes
            self._caches[part.session_id].state_of.update(
                {place: (found.states, row) for place, row in zip(part.places, part.rows, strict=True)}
            )
            rows += [
                row_of(len(growth.token_ids), nodes.depths[place], growth.sampling, self.spec.calibration)
                for place in part.places
            ]
        self._end_growth(grown, self._proposals(rows, found, NUM_AHEAD))

    def _take_pairs(self, parts: list[DraftRows], found: HiddenStatePass) -> None:
        """The last row of those that have read all gives the first level."""
        read = []
        for part in parts:
            draft, cache = part.draft, self._caches[part.session_id]
            if cache.end_of_pairs < len(draft.token_ids) - 1:
                continue
            cache.last = found, part.rows.start
            if part.num_children:
                read.append(part)
            else:
                draft.is_complete = True
        self._grow_rows(read, found)

    def _grow_from_last(self, session_id: str, draft: Draft, cache: PairCache) -> None:
        if (last := cache.last_pass) is None or not draft.tree.num_children():
            draft.is_complete = True
            return
        found, row = last
        self._grow_rows([DraftRows(session_id, draft, range(row, row + 1), draft.tree.num_children())], found)

    def _grow_rows(self, parts: list[DraftRows], found: HiddenStatePass) -> None:
        """Children of the parts' rows, and what will be fed to them."""
        if not parts:
            return
        rows = [CandidateRow(0)] * found.states.shape[0]  # what comes of a row of no draft is of no use
        for part in parts:
            draft, cache = part.draft, self._caches[part.session_id]
            row = row_of(len(draft.token_ids), draft.tree.depth, draft.sampling, self.spec.calibration)
            for node, place in zip(draft.asked, part.rows, strict=True):
                rows[place] = row
                cache.state_of[draft.place_of[node]] = found.states, place
        proposals = self._proposals(rows, found, self._num_kept(parts))
        for part in parts:
            if part.draft.tree.depth == 0 and (best := proposals[part.rows.start]) is not None:
                self._caches[part.session_id].first_choice = (len(part.draft.token_ids), best[0][0])
                if self._is_one_call(part.draft):
                    self._draft_levels(part, KnownRoot(*self._caches[part.session_id].state_of[ROOT], best))
        self._grow(parts, proposals)

    def _is_one_call(self, draft: Draft, num_unread: int = 0) -> bool:
        """Whether one call reads so many tokens and computes all levels."""
        return len(self._drafts) == 1 and self.runner.drafts_levels and is_short(draft.tree, self.spec, num_unread)

    def _draft_alone(self, session_id: str, draft: Draft, cache: PairCache) -> tuple[DraftRows, Proposals | None]:
        part = DraftRows(session_id, draft, range(1), draft.tree.num_children())
        token_ids, states = self._next_pairs(draft, cache)
        choice = row_of(len(draft.token_ids), 0, draft.sampling, self.spec.calibration)
        found = self._draft_levels(part, UnreadRows(array("q", token_ids), states.values, choice))
        proposals = cache.take_root(found, len(draft.token_ids))
        self.num_rows += len(token_ids)
        return part, proposals[: self._num_kept([part])] or None

    def _draft_levels(self, part: DraftRows, root: KnownRoot | UnreadRows) -> DraftedLevels:
        draft, cache = part.draft, self._caches[part.session_id]
        found = compute_levels(self.runner, draft, cache, root, self.slots, self.spec, self._num_kept([part]))
        self.num_rows += len(found.nodes)
        self.num_inner_passes += max(cache.nodes.depths, default=0)
        return found

    def _proposals(self, rows: list[CandidateRow], found: HiddenStatePass, k: int) -> list[Proposals | None]:
        """Of each asked row, the most probable choices of the verifier."""
        candidates = found.candidates
        return best_proposals(
            rows, self.spec.calibration, k, candidates.token_ids, candidates.logits, candidates.log_sum_exp
        )

    def _fed(self, token_ids: list[int]) -> list[int]:
        """Ids that the LLM's embedding doesn't have, as id 0."""
        vocab_size = self.spec.vocab_size
        return [token_id if token_id < vocab_size else 0 for token_id in token_ids]
