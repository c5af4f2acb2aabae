"""An SSM that is a small language model. It reads the committed tokens, then feeds itself what it drafts.

Owned by the pool's engine. Per session it keeps KV slots for a prefix of the committed tokens, which sessions that begin alike share, and
those of the last tree: when newly committed tokens follow that tree, its slots become theirs and nothing is computed again. Where the
last of them was computed too, as in a tree that grew on, what hangs below it is the beginning of the next tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from specgrove.errors import ResourceExhaustedError
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import TreeShape
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.hidden_state.spec import Calibration
from specgrove.runtime.model_runner import DraftRunner, level_ms
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.shared_slots import next_tokens
from specgrove.runtime.top_k import TopK
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from ssm_service.draft_tree import ROOT, Beam, Expansion
from ssm_service.draft_vocab import DraftVocab
from ssm_service.drafts import Cache, Draft, DraftRows, EndedDraft
from ssm_service.growth import GrownRows
from ssm_service.nodes import Nodes, Proposals
from ssm_service.pass_drafter import ChunkBudget, PassDrafter
from ssm_service.proposing import NUM_AHEAD, NUM_CANDIDATES, best_proposals, row_of

_UNTOLD_VOCABULARY = Vocabulary()
_USUAL_CALIBRATION = Calibration()


@dataclass(slots=True)
class _Pass:
    """A pass in flight, of ``k`` proposals a row; and the drafts that ended when it was begun."""

    taking_part: list[DraftRows] = field(default_factory=list)
    grown: list[GrownRows] = field(default_factory=list)
    finished: list[EndedDraft] = field(default_factory=list)
    k: int = 1


class NeuralSsm(PassDrafter[Cache]):
    """A small language model."""

    def __init__(
        self,
        name: str,
        runner: DraftRunner,
        rule: Beam | Expansion,
        vocab: DraftVocab | None,
        *,
        vocabulary: Vocabulary = _UNTOLD_VOCABULARY,
        calibration: Calibration = _USUAL_CALIBRATION,
        max_num_chunk_tokens: int = 256,
        has_prefix_cache: bool = True,
    ) -> None:
        """Raises ``ValueError`` when the vocabulary doesn't fit the model."""
        spec = runner.spec
        if vocab is not None and vocab.size != spec.vocab_size:
            raise ValueError(f"SSM {name}: its map has {vocab.size} draft token ids, its model has {spec.vocab_size}")
        if vocab is not None and vocab.num_never_proposed == vocab.size:
            raise ValueError(f"SSM {name}: its map has no token that it could propose")
        super().__init__(
            name,
            rule,
            vocabulary,
            runner.num_slots,
            spec.max_position_embeddings,
            max_num_chunk_tokens,
            has_prefix_cache=has_prefix_cache,
        )
        self.runner = runner
        self._vocab = vocab
        self.calibration = calibration
        self._pass: _Pass | None = None

    @property
    def spec(self) -> DecoderSpec:
        """What its model is."""
        return self.runner.spec

    @property
    def num_parameters(self) -> int:
        """See ``PassDrafter``."""
        return self.spec.num_parameters

    def level_ms(self, scratch_slots: list[int]) -> float:
        """See ``PassDrafter``."""
        return level_ms(self.runner, scratch_slots)

    def _new_cache(self) -> Cache:
        return Cache()

    def begin(
        self,
        session_id: str,
        token_ids: list[int],
        shape: TreeShape,
        sampling: DraftSampling | None,
        ahead_s: float = 0.0,
        cache_salt: str | None = None,
    ) -> bool:
        """See ``PassDrafter``: False when the sequence is too long for this SSM."""
        if len(token_ids) > min(self.max_model_len, self.runner.num_slots):
            self.drop(session_id)
            return False
        self.stop(session_id)
        cache = self._cache_of(session_id)
        cache.token_ids = token_ids
        self._keep_committed(cache, token_ids)
        if cache_salt is not None and not cache.slots:
            self.slots.enter(cache, cache_salt)
        self._reuse(cache)
        draft = self._open(session_id, token_ids, cache, shape, sampling, ahead_s)
        if len(cache.slots) == len(token_ids):
            draft.is_complete = draft.tree.num_children() == 0
            while not draft.is_complete and draft.grow():
                pass
        return True

    def _keep_committed(self, cache: Cache, token_ids: list[int]) -> None:
        """Nodes of the last tree that were committed give their slots to the context; the others' are freed.

        Where it is known what the last committed token is followed by, what hangs below it stays, too. Else that token is left out, for
        its logits are wanted.
        """
        nodes, place = cache.nodes, ROOT
        kept = set()
        while len(cache.slots) < len(token_ids):
            child = nodes.child(place, token_ids[len(cache.slots)])
            if child is None:
                break
            place = child
            kept.add(place)
            cache.slots.append(nodes.slots[place])
        is_known = len(cache.slots) == len(token_ids) and place in nodes.proposals
        cache.nodes = nodes.below(place) if is_known else Nodes()
        freed = set(nodes.slots).difference(cache.nodes.slots, [nodes.slots[place] for place in kept])
        self.slots.free(freed)
        if not is_known and len(cache.slots) >= len(token_ids):
            self.slots.cut(cache, len(token_ids) - 1)

    def start_pass(self) -> None:
        """See ``PassDrafter``."""
        builder = PassBuilder()
        begun = self._pass = _Pass()
        budget = ChunkBudget(self._max_num_chunk_tokens)
        being_read: set[tuple[object, ...]] = set()
        for session_id, draft in list(self._drafts.items()):
            if draft.is_complete:  # all of its levels were known
                begun.finished.append(self._end(session_id))
                continue
            self._reuse(draft.cache)
            num_missing = len(draft.token_ids) - len(draft.cache.slots)
            coming = next_tokens(draft.cache, len(draft.token_ids) - 1) if num_missing else ()
            # Where another one reads the same in this pass, it will have it from there.
            draft.chunk_len = 0 if coming in being_read else budget.take(num_missing)
            if num_missing and not draft.chunk_len:
                continue
            try:
                rows = self._add_rows(builder, draft)
            except ResourceExhaustedError:
                begun.finished.append(self._end_without_room(session_id))
                continue
            if coming:
                being_read.add(coming)
            num_children = draft.tree.num_children() if len(rows) else 0  # a chunk before the last has none yet
            begun.taking_part.append(DraftRows(session_id, draft, rows, num_children))
        if not begun.taking_part and not begun.finished:
            begun.grown = self._next_growth()
            for part in begun.grown:
                part.rows = self._add_tree(builder, part.growth.cache, part.growth.cache.nodes.rows(part.places))
        if not builder.num_rows:
            return
        self.num_rows += builder.num_rows
        # Ids that are never proposed take their share of the probability all the same: it keeps the others' honest.
        num_wanted = max(1, self._num_wanted(begun))
        num_wanted += 0 if self._vocab is None else self._vocab.num_never_proposed
        sampled = [part.draft.sampling for part in begun.taking_part] + [part.growth.sampling for part in begun.grown]
        if self.calibration.noise_weight > 0 and any(sampling is not None for sampling in sampled):
            num_wanted = max(num_wanted, NUM_CANDIDATES)
        begun.k = min(num_wanted, self.spec.vocab_size)
        self.runner.start_top_k(builder.build(), begun.k)

    def _num_wanted(self, begun: _Pass) -> int:
        return self._num_kept(begun.taking_part) if begun.taking_part else NUM_AHEAD

    def finish_pass(self) -> list[EndedDraft]:
        """See ``PassDrafter``."""
        assert self._pass is not None, "no pass was begun"
        begun, self._pass = self._pass, None
        if not begun.taking_part and not begun.grown:
            return begun.finished
        proposals = self._proposals(begun, self.runner.finish_top_k(begun.k))
        self._end_growth(begun.grown, proposals)
        self._grow(begun.taking_part, proposals)
        self._share_read(begun.taking_part)
        ended = [self._end(part.session_id) for part in begun.taking_part if part.draft.is_complete]
        return begun.finished + ended

    def discard(self) -> None:
        """See ``PassDrafter``."""
        self._pass = None
        self.runner.discard()

    def _add_rows(self, builder: PassBuilder, draft: Draft) -> range:
        cache = draft.cache
        if draft.chunk_len:
            start = len(cache.slots)
            cache.slots.extend(self._allocate(draft.chunk_len))
            self.read_counts.num_computed_tokens += draft.chunk_len
            chunk = draft.token_ids[start : start + draft.chunk_len]
            is_last = len(cache.slots) == len(draft.token_ids)
            # Who only reads wants nothing of the last row either.
            draft.is_complete = is_last and draft.tree.num_children() == 0
            return builder.add(cache.slots, self._fed(chunk), chunk_logits=is_last and not draft.is_complete)
        draft.asked = draft.unknown()
        return self._add_tree(builder, cache, draft.new_rows(self._allocate(len(draft.asked))))

    def _add_tree(self, builder: PassBuilder, cache: Cache, rows: TreeRows) -> range:
        return builder.add(cache.slots, (), replace(rows, token_ids=self._fed(list(rows.token_ids))))

    def _fed(self, token_ids: list[int]) -> list[int]:
        """The LLM's ids as this model takes them: those that it doesn't know as id 0."""
        if self._vocab is not None:
            return self._vocab.to_draft(token_ids)
        vocab_size = self.spec.vocab_size
        return [token_id if token_id < vocab_size else 0 for token_id in token_ids]

    def _proposals(self, begun: _Pass, found: TopK) -> list[Proposals | None]:
        """Of each asked row."""
        rows = [
            row_of(len(part.draft.token_ids), part.draft.tree.depth, part.draft.sampling, self.calibration)
            for part in begun.taking_part
            for _ in part.rows
        ]
        for part in begun.grown:
            growth, depths = part.growth, part.growth.cache.nodes.depths
            rows += [
                row_of(len(growth.token_ids), depths[place], growth.sampling, self.calibration) for place in part.places
            ]
        if not rows:
            return []
        token_ids = found.token_ids if self._vocab is None else self._vocab.to_llm(found.token_ids)
        k = max(1, self._num_wanted(begun))
        return best_proposals(rows, self.calibration, k, token_ids, found.log_probs, torch.zeros(len(rows)))
