"""An SSM with weights: drafts for all sessions, one pass after the other over whatever rows their drafts need next. A pass is begun and
ended apart, so that on a GPU several SSMs run side by side.

Owned by the pool's engine. Per session it keeps KV slots for a prefix of the committed tokens, and those of the last tree:
when newly committed tokens follow that tree, its slots become theirs and nothing is computed again.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import torch

from specgrove.errors import ResourceExhaustedError
from specgrove.loop.request import TreeShape
from specgrove.loop.token_tree import TokenTree
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.runtime.kv_slots import SlotPool
from specgrove.runtime.model_runner import DraftRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.top_k import TopK
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from ssm_service.draft_tree import ROOT, Beam, DraftTree, Expansion

# A chunk of up to this share of a pass's chunk budget doesn't wait for its turn.
_SHORT_CHUNK_SHARE = 8


class DraftVocab:
    """The SSM's own token ids against the LLM's. Id 0 stands for everything the SSM doesn't know."""

    def __init__(self, draft_token_ids: torch.Tensor) -> None:
        """``draft_token_ids`` is int32 ``[draft_vocab_size]``: the LLM's id of each draft id, -1 for those never proposed."""
        self._to_llm: list[int] = draft_token_ids.tolist()
        self.size = len(self._to_llm)
        self.never_proposed = frozenset(i for i, llm_id in enumerate(self._to_llm) if i == 0 or llm_id < 0)
        self._to_draft = {token_id: draft_id for draft_id, token_id in enumerate(self._to_llm)}

    def to_draft(self, token_ids: list[int]) -> list[int]:
        """The ids to feed."""
        return [self._to_draft.get(token_id, 0) for token_id in token_ids]

    def to_llm(self, draft_id: int) -> int:
        """The id to propose."""
        return self._to_llm[draft_id]


_UNTOLD_VOCABULARY = Vocabulary()


@dataclass(slots=True)
class _Nodes:
    """Tree nodes whose keys and values are in place. Parents are places in these lists, or ``ROOT``."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Cache:
    """What the SSM holds of one session."""

    slots: array[int] = field(default_factory=lambda: array("i"))  # of the first committed tokens
    nodes: _Nodes = field(default_factory=_Nodes)  # below the committed tokens as they were at the last draft


@dataclass(slots=True)
class _Draft:
    """A draft under way: first the committed tokens not yet held, then the tree, level by level."""

    token_ids: list[int]  # all committed
    cache: _Cache
    tree: DraftTree
    expanded: list[int] = field(default_factory=list)  # tree nodes whose logits are wanted next
    place_of: dict[int, int] = field(default_factory=lambda: {ROOT: ROOT})  # tree node -> place in cache.nodes
    chunk_len: int = 0
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class _DraftRows:
    """A draft's part in a pass: which of its asked rows, and how many children each gets at most."""

    session_id: str
    draft: _Draft
    rows: range
    num_children: int


@dataclass(slots=True)
class _Pass:
    """A pass in flight, of ``k`` proposals a row; and the drafts that ended when it was begun."""

    taking_part: list[_DraftRows] = field(default_factory=list)
    finished: list[tuple[str, TokenTree]] = field(default_factory=list)
    k: int = 1


class NeuralSsm:
    """One SSM with its KV cache."""

    def __init__(
        self,
        name: str,
        runner: DraftRunner,
        rule: Beam | Expansion,
        vocab: DraftVocab | None,
        *,
        vocabulary: Vocabulary = _UNTOLD_VOCABULARY,
        max_num_chunk_tokens: int = 256,
    ) -> None:
        """Raises ``ValueError`` when the vocabulary doesn't fit the model."""
        model_vocab_size = runner.spec.vocab_size
        if vocab is not None and vocab.size != model_vocab_size:
            raise ValueError(f"SSM {name}: its map has {vocab.size} draft token ids, its model has {model_vocab_size}")
        if vocab is not None and len(vocab.never_proposed) == vocab.size:
            raise ValueError(f"SSM {name}: its map has no token that it could propose")
        self.name = name
        self.rule = rule
        self.vocabulary = vocabulary
        self.runner = runner
        self.slots = SlotPool(runner.num_slots)
        self._vocab = vocab
        self._never_proposed = frozenset[int]() if vocab is None else vocab.never_proposed
        self._max_num_chunk_tokens = max_num_chunk_tokens
        self.num_rows = 0
        self._caches: dict[str, _Cache] = {}
        self._drafts: dict[str, _Draft] = {}
        self._pass: _Pass | None = None

    @property
    def spec(self) -> DecoderSpec:
        """What its model is."""
        return self.runner.spec

    @property
    def max_model_len(self) -> int:
        """Longest sequence it can draft for, in tokens."""
        return self.spec.max_position_embeddings

    def has_work(self) -> bool:
        """Whether a draft is under way."""
        return bool(self._drafts)

    def begin(self, session_id: str, token_ids: list[int], shape: TreeShape) -> bool:
        """Starts a draft below all committed tokens; False when the sequence is too long for this SSM."""
        max_depth = min(shape.max_depth, self.max_model_len - len(token_ids))
        if max_depth < 0 or len(token_ids) > self.runner.num_slots:
            self.drop(session_id)
            return False
        cache = self._caches.pop(session_id, _Cache())
        self._caches[session_id] = cache  # last in order: the last to make room for others
        self._keep_committed(cache, token_ids)
        tree = DraftTree(TreeShape(shape.max_num_nodes, max_depth, shape.beam_width), self.rule)
        self._drafts[session_id] = _Draft(token_ids, cache, tree)
        return True

    def _keep_committed(self, cache: _Cache, token_ids: list[int]) -> None:
        """Nodes of the last tree that were committed give their slots to the context; the others' are freed.

        The last committed token is always left out, for its logits are wanted.
        """
        nodes, cache.nodes = cache.nodes, _Nodes()
        children = {
            (parent, token_id): place
            for place, (parent, token_id) in enumerate(zip(nodes.parents, nodes.token_ids, strict=True))
        }
        place = ROOT
        kept = set()
        while len(cache.slots) < len(token_ids) - 1:
            child = children.get((place, token_ids[len(cache.slots)]))
            if child is None:
                break
            place = child
            kept.add(place)
            cache.slots.append(nodes.slots[place])
        self.slots.free(slot for place, slot in enumerate(nodes.slots) if place not in kept)
        if len(cache.slots) >= len(token_ids):  # the last token was a prompt's end before: compute it again
            self.slots.free(cache.slots[len(token_ids) - 1 :])
            del cache.slots[len(token_ids) - 1 :]

    def start_pass(self) -> None:
        """Begins one pass for all drafts. One that finds no KV slots ends with the levels it has."""
        builder = PassBuilder()
        begun = _Pass()
        budget = self._max_num_chunk_tokens
        short_len = budget // _SHORT_CHUNK_SHARE
        for session_id, draft in list(self._drafts.items()):
            num_missing = len(draft.token_ids) - len(draft.cache.slots)
            # A running session's few new tokens never queue behind the prompts, which share the budget.
            is_short = num_missing <= short_len
            draft.chunk_len = num_missing if is_short else min(num_missing, budget)
            if num_missing and not draft.chunk_len:
                continue
            budget -= 0 if is_short else draft.chunk_len
            try:
                rows = self._add_rows(builder, draft)
            except ResourceExhaustedError:
                begun.finished.append((session_id, draft.tree.best(draft.token_ids[-1])))
                del self._drafts[session_id]
                if draft.chunk_len:  # others may have the room until this session comes again
                    self.drop(session_id)
                continue
            num_children = draft.tree.num_children() if len(rows) else 0  # a chunk before the last has none yet
            begun.taking_part.append(_DraftRows(session_id, draft, rows, num_children))
        self._pass = begun
        if not begun.taking_part:
            return
        self.num_rows += builder.num_rows
        # Ids that are never proposed take their share of the probability all the same: it keeps the others' honest.
        num_wanted = max(1, *(part.num_children for part in begun.taking_part)) + len(self._never_proposed)
        begun.k = min(num_wanted, self.spec.vocab_size)
        self.runner.start_top_k(builder.build(), begun.k)

    def finish_pass(self) -> list[tuple[str, TokenTree]]:
        """Ends it: the drafts that are complete, by session."""
        assert self._pass is not None, "no pass was begun"
        begun, self._pass = self._pass, None
        if not begun.taking_part:
            return begun.finished
        self._grow(begun.taking_part, self.runner.finish_top_k(begun.k))
        for part in begun.taking_part:
            if part.draft.is_complete:
                del self._drafts[part.session_id]
                begun.finished.append((part.session_id, part.draft.tree.best(part.draft.token_ids[-1])))
        return begun.finished

    def reset(self) -> None:
        """Forgets everything, a pass in flight too."""
        for session_id in list(self._caches):
            self.drop(session_id)
        self._pass = None
        self.runner.discard()

    def _add_rows(self, builder: PassBuilder, draft: _Draft) -> range:
        cache = draft.cache
        if draft.chunk_len:
            start = len(cache.slots)
            cache.slots.extend(self._allocate(draft.chunk_len))
            chunk = draft.token_ids[start : start + draft.chunk_len]
            is_last = len(cache.slots) == len(draft.token_ids)
            # Who only reads wants nothing of the last row either.
            draft.is_complete = is_last and draft.tree.num_children() == 0
            return builder.add(cache.slots, self._fed(chunk), chunk_logits=is_last and not draft.is_complete)
        nodes = cache.nodes
        first_new = len(nodes.slots)
        nodes.slots.extend(self._allocate(len(draft.expanded)))
        for node in draft.expanded:
            draft.place_of[node] = len(nodes.token_ids)
            nodes.token_ids.append(draft.tree.token_ids[node])
            nodes.parents.append(draft.place_of[draft.tree.parents[node]])
        rows = TreeRows(self._fed(nodes.token_ids), nodes.parents, nodes.slots, first_new)
        return builder.add(cache.slots, (), rows)

    def _allocate(self, num_slots: int) -> list[int]:
        """Takes slots, if need be from the sessions that drafted longest ago; never from one with a draft under way.

        Raises ``ResourceExhaustedError``, and takes none from anyone, where even that is not enough.
        """
        if num_slots > self.slots.num_free:
            idle = [session_id for session_id in self._caches if session_id not in self._drafts]
            sizes = [
                len(self._caches[session_id].slots) + len(self._caches[session_id].nodes.slots) for session_id in idle
            ]
            if self.slots.num_free + sum(sizes) >= num_slots:
                for session_id in idle:
                    if self.slots.num_free >= num_slots:
                        break
                    self.drop(session_id)
        return self.slots.allocate(num_slots)

    def _fed(self, token_ids: list[int]) -> list[int]:
        """The LLM's ids as this model takes them: those that it doesn't know as id 0."""
        if self._vocab is not None:
            return self._vocab.to_draft(token_ids)
        vocab_size = self.spec.vocab_size
        return [token_id if token_id < vocab_size else 0 for token_id in token_ids]

    def _grow(self, parts: list[_DraftRows], found: TopK) -> None:
        """Turns the most probable tokens into children; marks drafts that are complete."""
        never = self._never_proposed
        proposals = [
            [(self._proposed(i), value) for i, value in zip(row_ids, row_values, strict=True) if i not in never]
            for row_ids, row_values in zip(found.token_ids.tolist(), found.log_probs.tolist(), strict=True)
        ]
        is_broken = (found.token_ids[:, 0] < 0).tolist()
        for part in parts:
            draft = part.draft
            if len(part.rows) == 0:  # a chunk before the last, or all that there was to read
                continue
            # NaN: a broken SSM, or one that overflows in its dtype, costs its own trees only
            draft.is_complete = any(is_broken[row] for row in part.rows)
            if draft.is_complete:
                continue
            children = [proposals[row][: part.num_children] for row in part.rows]
            draft.expanded = draft.tree.grow(draft.expanded or [ROOT], children)
            draft.is_complete = not draft.expanded

    def _proposed(self, token_id: int) -> int:
        return token_id if self._vocab is None else self._vocab.to_llm(token_id)

    def drop(self, session_id: str) -> None:
        """Forgets what is held of a session, and any draft under way for it. It can draft again from all its tokens."""
        self._drafts.pop(session_id, None)
        cache = self._caches.pop(session_id, None)
        if cache is not None:
            self.slots.free(cache.slots)
            self.slots.free(cache.nodes.slots)
