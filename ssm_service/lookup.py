"""The SSM without weights: what followed the same words before, in this session's text or in earlier outputs.

Prompt lookup (n-gram matching) with calibrated confidence: how often a match of n tokens was right so far becomes the
log-probability, so that its trees can be merged with other SSMs' and pruned by the same measure.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from specgrove.request import TreeShape
from specgrove.token_tree import TokenTree

MIN_MATCH_LEN = 2
MAX_MATCH_LEN = 5
_MAX_NUM_MATCHES = 4
_PRIOR_RATES = {2: 0.25, 3: 0.45, 4: 0.6, 5: 0.7}
_PRIOR_WEIGHT = 20.0
_MAX_NUM_CORPUS_TOKENS = 50_000

NGram = tuple[int, ...]


class _Index:
    """Where n-grams end in a growing list of tokens: the place after each, latest last."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._ends: dict[NGram, list[int]] = defaultdict(list)

    def extend(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.token_ids.append(token_id)
            end = len(self.token_ids)
            for length in range(MIN_MATCH_LEN, min(MAX_MATCH_LEN, end) + 1):
                self._ends[tuple(self.token_ids[end - length :])].append(end)

    def matches(self, suffix: NGram) -> list[int]:
        """Places after earlier occurrences that something follows, latest first."""
        ends = self._ends.get(suffix, [])
        return [end for end in reversed(ends[-_MAX_NUM_MATCHES - 1 :]) if end < len(self.token_ids)]


@dataclass(slots=True)
class _Session:
    index: _Index = field(default_factory=_Index)
    guesses: list[tuple[int, int]] = field(default_factory=list)  # (match length, token) at the last draft


class LookupSsm:
    """Drafts by matching; owned by the pool's engine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._sessions: dict[str, _Session] = {}
        self._corpus: deque[_Index] = deque()
        self._num_corpus_tokens = 0
        self._num_hits = {length: rate * _PRIOR_WEIGHT for length, rate in _PRIOR_RATES.items()}
        self._num_tries = dict.fromkeys(_PRIOR_RATES, _PRIOR_WEIGHT)

    def draft(self, session_id: str, token_ids: list[int], shape: TreeShape) -> TokenTree:
        """The tree below all committed tokens; a lone root where nothing matches."""
        session = self._sessions.setdefault(session_id, _Session())
        self._learn(session, token_ids)
        session.index.extend(token_ids[len(session.index.token_ids) :])
        tree = _Trie(token_ids[-1])
        if shape.max_num_nodes > 0:
            for length in range(min(MAX_MATCH_LEN, len(token_ids)), MIN_MATCH_LEN - 1, -1):
                found = self._continuations(session, tuple(token_ids[-length:]), shape.max_depth)
                for continuation in found:
                    session.guesses.append((length, continuation[0]))
                    tree.add(continuation, [self._log_rate(length + i, len(found)) for i in range(len(continuation))])
                if found:
                    break
        return tree.best(shape.max_num_nodes)

    def _continuations(self, session: _Session, suffix: NGram, max_len: int) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for index in (session.index, *self._corpus):
            for end in index.matches(suffix):
                continuation = index.token_ids[end : end + max_len]
                if continuation:
                    found.setdefault(continuation[0], continuation)
                if len(found) >= _MAX_NUM_MATCHES:
                    return list(found.values())
        return list(found.values())

    def _log_rate(self, match_len: int, num_alternatives: int) -> float:
        length = min(match_len, MAX_MATCH_LEN)
        return math.log(self._num_hits[length] / self._num_tries[length] / num_alternatives)

    def _learn(self, session: _Session, token_ids: list[int]) -> None:
        """Counts how the last draft's guesses of the next token went."""
        place = len(session.index.token_ids)
        if session.guesses and place < len(token_ids):
            length = session.guesses[0][0]
            self._num_tries[length] += 1
            self._num_hits[length] += any(token_id == token_ids[place] for _, token_id in session.guesses)
        session.guesses = []

    def drop(self, session_id: str) -> None:
        """Forgets a session, but keeps its text for others to match, as far as there is room."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        self._corpus.appendleft(session.index)
        self._num_corpus_tokens += len(session.index.token_ids)
        while self._num_corpus_tokens > _MAX_NUM_CORPUS_TOKENS:
            self._num_corpus_tokens -= len(self._corpus.pop().token_ids)


class _Trie:
    """Continuations as a tree."""

    def __init__(self, root_token_id: int) -> None:
        self._token_ids, self._parents, self._log_probs, self._scores = [root_token_id], [-1], [0.0], [0.0]
        self._children: dict[tuple[int, int], int] = {}

    def add(self, continuation: list[int], log_probs: list[float]) -> None:
        node = 0
        for token_id, log_prob in zip(continuation, log_probs, strict=True):
            child = self._children.get((node, token_id))
            if child is None:
                child = self._children[node, token_id] = len(self._token_ids)
                self._token_ids.append(token_id)
                self._parents.append(node)
                self._log_probs.append(log_prob)
                self._scores.append(self._scores[node] + log_prob)
            node = child

    def best(self, max_num_nodes: int) -> TokenTree:
        order = sorted(range(len(self._token_ids)), key=lambda node: (-self._scores[node], node))
        kept = sorted(order[: max_num_nodes + 1])
        place = {node: index for index, node in enumerate(kept)}
        return TokenTree(
            tuple(self._token_ids[node] for node in kept),
            tuple(place.get(self._parents[node], -1) for node in kept),
            tuple(self._log_probs[node] for node in kept),
            (0,) * len(kept),
        )
