"""What all SSMs with weights share: KV slots of sessions, drafts under way for many of them, trees that grow by a level a pass.

``NeuralSsm`` and ``HiddenStateSsm`` are built on it; owned by the pool's engine. A pass is begun and ended apart, so that on a GPU several
``NeuralSsm`` run side by side; a ``HiddenStateSsm`` waits for its pass where it begins it. Invariant: a session with a draft under way is
never taken slots from.

An SSM may share what it computes by a prefix cache: what a session holds it holds with others, and what it gives back stays there until
a draft needs the room. Row invariance makes it exact: a committed token's keys and values are a function of the tokens before it.

Where no draft is under way, trees whose drafts are over grow on (``Growth``), for those that are asked to: the next draft then finds
its levels done, or some of them. A draft that comes waits for one such pass at most.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from specgrove.config import MAX_NUM_TREE_NODES
from specgrove.loop.row_times import RowTimes
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import TreeShape
from specgrove.runtime.prefix_cache import PrefixCache
from specgrove.runtime.shared_slots import SharedSlots
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from ssm_service.counts import ReadCounts
from ssm_service.draft_tree import Beam, DraftTree, Expansion
from ssm_service.drafts import Cache, Draft, DraftRows, EndedDraft
from ssm_service.growth import GrownRows, Growth, choose_nodes
from ssm_service.nodes import Proposals
from ssm_service.proposing import NUM_AHEAD

# A chunk of up to this share of a pass's chunk budget doesn't wait for its turn.
_SHORT_CHUNK_SHARE = 8

C = TypeVar("C", bound=Cache)


class PassDrafter(ABC, Generic[C]):
    """One SSM with its KV cache. ``C`` is what it holds of a session."""

    def __init__(
        self,
        name: str,
        rule: Beam | Expansion,
        vocabulary: Vocabulary,
        num_slots: int,
        max_model_len: int,
        max_num_chunk_tokens: int,
        *,
        has_prefix_cache: bool = False,
    ) -> None:
        """With ``has_prefix_cache`` the slots of every session must be those of its first tokens."""
        self.name = name
        self.rule = rule
        self.vocabulary = vocabulary
        self.max_model_len = max_model_len
        """Longest sequence it can draft for, in tokens."""
        self.read_counts = ReadCounts()
        self._num_slots = num_slots
        self._has_prefix_cache = has_prefix_cache
        self.slots = self._all_slots()
        self.num_rows = 0
        self.num_inner_passes = 0
        """Those that were run within another pass's beginning or end."""
        self._max_num_chunk_tokens = max_num_chunk_tokens
        self._caches: dict[str, C] = {}
        self._drafts: dict[str, Draft] = {}
        self._growths: dict[str, Growth] = {}
        self._has_grown: set[str] = set()
        self.row_times = RowTimes()
        """What a pass takes, by its rows: told by the pool."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Its own."""

    @abstractmethod
    def begin(
        self,
        session_id: str,
        token_ids: list[int],
        shape: TreeShape,
        sampling: DraftSampling | None,
        ahead_s: float = 0.0,
        cache_salt: str | None = None,
    ) -> bool:
        """Starts a draft below all committed tokens, in place of the session's last one; False when this SSM has none to give.

        ``token_ids`` is always the same list of a session, which only grows. For ``ahead_s`` its tree grows on when it is complete. The
        session shares keys and values with those of the same ``cache_salt``; ``None``: with none.
        """

    @abstractmethod
    def start_pass(self) -> None:
        """Begins one pass for all drafts, or where there are none for trees that grow on. A draft that finds no KV slots ends with the
        levels it has."""

    @abstractmethod
    def finish_pass(self) -> list[EndedDraft]:
        """Ends it: the drafts that are complete."""

    @abstractmethod
    def discard(self) -> None:
        """Forgets a pass in flight."""

    @abstractmethod
    def level_ms(self, scratch_slots: list[int]) -> float:
        """Wall time of a pass of as many rows as there are ``scratch_slots``. No pass may be under way."""

    @abstractmethod
    def _new_cache(self) -> C:
        """Of a session that nothing is known of."""

    def _all_slots(self) -> SharedSlots:
        return SharedSlots(self._num_slots, self.read_counts, PrefixCache() if self._has_prefix_cache else None)

    def check_slots(self) -> None:
        """Raises ``RuntimeError`` where a KV slot has no owner, or two. No pass may be under way."""
        caches = self._caches.values()
        self.slots.check(caches, (slot for cache in caches for slot in cache.nodes.slots))

    @property
    def has_drafts(self) -> bool:
        """Whether a draft is under way."""
        return bool(self._drafts)

    def has_work(self) -> bool:
        """Whether a draft is under way, or a tree grows on."""
        return bool(self._drafts or self._growths)

    def is_growing(self, session_id: str) -> bool:
        """Whether the session's last tree grows on."""
        return session_id in self._growths

    def take_grown(self) -> list[tuple[str, TokenTree]]:
        """The trees that have grown since this was asked last, by session."""
        grown, self._has_grown = self._has_grown, set()
        found = []
        for session_id in grown:
            if session_id in self._growths:
                growth = self._growths[session_id]
                tree = growth.cache.nodes.tree(growth.token_ids[-1], MAX_NUM_TREE_NODES - 1)
                found.append((session_id, tree))
        return found

    def stop(self, session_id: str) -> None:
        """Ends a draft under way, and a tree's growing on. What has been computed is kept."""
        self._drafts.pop(session_id, None)
        self._growths.pop(session_id, None)

    def drop(self, session_id: str) -> None:
        """Forgets a session, and any draft under way for it. What was computed of its committed tokens the prefix cache keeps."""
        self.stop(session_id)
        cache = self._caches.pop(session_id, None)
        if cache is not None:
            self.slots.free(cache.nodes.slots)
            self.slots.release(cache, len(cache.slots), is_sound=cache.is_sound)

    def _evict(self, session_id: str) -> None:
        """Drops what is held of a session that goes on: others need the room."""
        self.drop(session_id)

    def reset(self) -> None:
        """Forgets everything, a pass in flight too: nobody knows what is in the slots."""
        self._drafts.clear()
        self._growths.clear()
        self._caches.clear()
        self.slots = self._all_slots()
        self.discard()

    def _cache_of(self, session_id: str) -> C:
        """That of a session, which is now the last in order: the last to make room for others."""
        cache = self._caches.pop(session_id, None) or self._new_cache()
        self._caches[session_id] = cache
        return cache

    def _reuse(self, cache: C) -> None:
        """Gives it what the prefix cache knows of its next tokens, but the last committed one: its logits are wanted."""
        self.read_counts.num_cached_tokens += self.slots.reuse(cache, len(cache.token_ids) - 1)

    def _share_read(self, parts: Sequence[DraftRows]) -> None:
        """Gives the prefix cache what was read in a pass."""
        for part in parts:
            cache = part.draft.cache
            if part.draft.chunk_len and cache.is_sound:
                self.slots.share(cache, min(len(cache.slots), len(cache.token_ids) - 1))

    def _open(
        self,
        session_id: str,
        token_ids: list[int],
        cache: C,
        shape: TreeShape,
        sampling: DraftSampling | None,
        ahead_s: float,
    ) -> Draft:
        max_depth = min(shape.max_depth, self.max_model_len - len(token_ids))
        tree = DraftTree(replace(shape, max_depth=max_depth), self.rule)
        draft = self._drafts[session_id] = Draft(token_ids, cache, tree, sampling, ahead_s)
        return draft

    def _allocate(self, num_slots: int) -> list[int]:
        """Takes slots that no session holds, if need be those of the sessions that drafted longest ago; never from one with a draft
        under way.

        Raises ``ResourceExhaustedError``, and takes none from anyone, where even that is not enough.
        """
        if num_slots > self.slots.num_free:
            idle = {session_id: cache for session_id, cache in self._caches.items() if session_id not in self._drafts}
            num_held = self.slots.num_held(idle.values()) + sum(len(cache.nodes.slots) for cache in idle.values())
            if self.slots.num_free + num_held >= num_slots:
                for session_id, cache in idle.items():
                    if self.slots.num_free >= num_slots:
                        break
                    if cache.slots or cache.nodes.slots:
                        self._evict(session_id)
        return self.slots.allocate(num_slots)

    def _num_kept(self, parts: Sequence[DraftRows]) -> int:
        """Proposals wanted of each row: more than are drafted where a tree is to grow on."""
        return max(max(part.num_children, NUM_AHEAD if part.draft.ahead_s > 0 else 1) for part in parts)

    def _grow(self, parts: Sequence[DraftRows], proposals: Sequence[Proposals | None]) -> None:
        """Turns asked rows' proposals into children; marks drafts that are complete.

        ``None``: a row that isn't numbers, of a broken SSM or one that overflows in its dtype. It costs its own tree only.
        """
        for part in parts:
            draft = part.draft
            if len(part.rows) == 0:  # a chunk before the last, or all that there was to read
                continue
            for node, row in zip(draft.asked, part.rows, strict=True):
                found = proposals[row]
                draft.is_complete |= found is None
                draft.cache.is_sound &= found is not None
                draft.cache.nodes.proposals[draft.place_of[node]] = found or ()
            while not draft.is_complete and draft.grow():
                pass

    def _next_growth(self) -> list[GrownRows]:
        """The nodes that the next pass adds to trees that grow on. Those that have grown enough end."""
        now_s = time.perf_counter()
        for session_id, growth in list(self._growths.items()):
            if growth.has_ended(now_s, self.max_model_len):
                del self._growths[session_id]
        chosen = choose_nodes(self._growths, self.row_times, self.slots.num_free)
        if not chosen:
            self._growths.clear()  # no room: what there is belongs to drafts
        return [rows.begun(self.slots.allocate(len(rows.nodes))) for rows in chosen]

    def _end_growth(self, grown: Sequence[GrownRows], proposals: Sequence[Proposals | None]) -> None:
        """Takes what a pass found."""
        for part in grown:
            found = [proposals[row] for row in part.rows]
            part.growth.cache.is_sound &= None not in found
            part.growth.take(part.places, [row or () for row in found])
            self._has_grown.add(part.session_id)

    def _end(self, session_id: str) -> EndedDraft:
        """The draft is over, with its tree as far as it has grown."""
        draft = self._drafts.pop(session_id)
        if draft.ahead_s > 0:
            self._growths[session_id] = Growth.of(draft, time.perf_counter())
        else:
            draft.cache.nodes.proposals.clear()
        return EndedDraft(session_id, draft.tree.best(draft.token_ids[-1]), draft.tree.depth)

    def _end_without_room(self, session_id: str) -> EndedDraft:
        """The same where there were no slots for it."""
        is_reading = bool(self._drafts[session_id].chunk_len)
        ended = self._end(session_id)
        if is_reading:  # others may have the room until this session comes again
            self._evict(session_id)
        return ended


class ChunkBudget:
    """How many committed tokens each draft reads in a pass. A running session's few new tokens never queue behind the prompts."""

    def __init__(self, max_num_tokens: int) -> None:
        self._num_left = max_num_tokens
        self._short_len = max_num_tokens // _SHORT_CHUNK_SHARE

    def take(self, num_missing: int) -> int:
        """Tokens to read of so many; 0 where others have used the budget up."""
        if num_missing <= self._short_len:
            return num_missing
        chunk_len = min(num_missing, self._num_left)
        self._num_left -= chunk_len
        return chunk_len
