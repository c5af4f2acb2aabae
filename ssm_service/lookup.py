"""The SSM without weights: what followed the same words before, in this session's text or in earlier outputs.

Prompt lookup (n-gram matching) with calibrated confidence: how often a match of n tokens was right so far becomes the
log-probability, so that its trees can be merged with other SSMs' and pruned by the same measure.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specgrove.loop.request import TreeShape
from specgrove.loop.token_tree import TokenTree

MIN_MATCH_LEN = 2
MAX_MATCH_LEN = 5
_MAX_NUM_ALTERNATIVES = 4
# Earlier occurrences of the last two tokens that are looked at, latest first: bounds the time of a draft.
_MAX_NUM_OCCURRENCES = 64
_PRIOR_RATES = {2: 0.25, 3: 0.45, 4: 0.6, 5: 0.7}
_PRIOR_WEIGHT = 20.0
_MAX_NUM_CORPUS_TOKENS = 50_000
# What is kept of one closed session: its end, where the output is.
_MAX_NUM_KEPT_TOKENS = 2048
_SEPARATOR = -1  # between the texts of a corpus; no token id


class _Index:
    """Where pairs of tokens end in a growing list of tokens: O(1) per token. Longer matches are found by looking back."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        # Of each pair the place after its latest occurrence; of each place the one before it with the same pair, 0 for none. Lists of
        # places would take two thirds more memory: most pairs of a text occur once.
        self._latest: dict[int, int] = {}
        self._before = array("i", [0])

    def extend(self, token_ids: Sequence[int]) -> None:
        previous = self.token_ids[-1] if self.token_ids else _SEPARATOR
        for end, token_id in enumerate(token_ids, start=len(self.token_ids) + 1):
            pair = previous << 32 | token_id
            self._before.append(self._latest.get(pair, 0))
            self._latest[pair] = end
            previous = token_id
        self.token_ids.extend(token_ids)

    def _occurrences(self, pair: int) -> Iterator[int]:
        """The places after it, latest first."""
        end = self._latest.get(pair, 0)
        while end:
            yield end
            end = self._before[end]

    def matches(self, text: list[int], min_len: int) -> Iterator[tuple[int, int]]:
        """(match length, place after it) of earlier occurrences of the text's last tokens, latest first."""
        longest = min(MAX_MATCH_LEN, len(text))
        for end in itertools.islice(self._occurrences(text[-2] << 32 | text[-1]), _MAX_NUM_OCCURRENCES):
            if end == len(self.token_ids) or self.token_ids[end] == _SEPARATOR:
                continue
            match_len = MIN_MATCH_LEN
            while (
                match_len < longest
                and match_len < end
                and self.token_ids[end - match_len - 1] == text[len(text) - match_len - 1]
            ):
                match_len += 1
            if match_len >= min_len:
                min_len = match_len
                yield match_len, end

    def following(self, end: int, max_len: int, *, repeats: bool) -> list[int]:
        """The tokens from a place on. With ``repeats``, a text that ends within them goes on with its own continuation."""
        found = self.token_ids[end : end + max_len]
        if _SEPARATOR in found:
            return found[: found.index(_SEPARATOR)]
        if repeats:
            period = len(found)
            found.extend(found[i % period] for i in range(period, max_len))
        return found


@dataclass(slots=True)
class _Session:
    index: _Index = field(default_factory=_Index)
    guesses: list[tuple[int, int]] = field(default_factory=list)  # (match length, token) at the last draft


class LookupSsm:
    """Drafts by matching; owned by the pool's engine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._sessions: dict[str, _Session] = {}
        # Two halves of the bounded corpus: when the new one is full, it replaces the old one.
        self._new_corpus, self._old_corpus = _Index(), _Index()
        self._num_hits = {length: rate * _PRIOR_WEIGHT for length, rate in _PRIOR_RATES.items()}
        self._num_tries = dict.fromkeys(_PRIOR_RATES, _PRIOR_WEIGHT)

    def draft(self, session_id: str, token_ids: list[int], shape: TreeShape) -> TokenTree:
        """The tree below all committed tokens; a lone root where nothing matches."""
        session = self._sessions.setdefault(session_id, _Session())
        self._learn(session, token_ids)
        session.index.extend(token_ids[len(session.index.token_ids) :])
        tree = _Trie(token_ids[-1])
        if shape.max_num_nodes > 0 and shape.max_depth > 0 and len(token_ids) >= MIN_MATCH_LEN:
            match_len, alternatives = self._alternatives(session, token_ids, shape.max_depth)
            num_matches = sum(count for count, _ in alternatives)
            for count, continuation in alternatives:
                session.guesses.append((match_len, continuation[0]))
                log_probs = [self._log_rate(match_len + i) for i in range(len(continuation))]
                log_probs[0] += math.log(count / num_matches)
                tree.add(continuation, log_probs)
        return tree.best(shape.max_num_nodes)

    def _alternatives(
        self, session: _Session, token_ids: list[int], max_len: int
    ) -> tuple[int, list[tuple[int, list[int]]]]:
        """The length of the longest matches, and what followed them: how often, and the latest text of each first token."""
        best_len = MIN_MATCH_LEN
        found: dict[int, tuple[int, list[int]]] = {}
        for index in (session.index, self._new_corpus, self._old_corpus):
            for match_len, end in index.matches(token_ids, best_len):
                if match_len > best_len:
                    best_len, found = match_len, {}
                first = index.token_ids[end]
                if first in found:
                    count, continuation = found[first]
                    found[first] = count + 1, continuation
                elif len(found) < _MAX_NUM_ALTERNATIVES:
                    found[first] = 1, index.following(end, max_len, repeats=index is session.index)
        return best_len, list(found.values())

    def _log_rate(self, match_len: int) -> float:
        length = min(match_len, MAX_MATCH_LEN)
        return math.log(self._num_hits[length] / self._num_tries[length])

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
        kept = session.index.token_ids[-_MAX_NUM_KEPT_TOKENS:]
        if len(self._new_corpus.token_ids) + len(kept) + 1 > _MAX_NUM_CORPUS_TOKENS // 2:
            self._new_corpus, self._old_corpus = _Index(), self._new_corpus
        self._new_corpus.extend([*kept, _SEPARATOR])


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
