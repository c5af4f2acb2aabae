"""An SSM without weights: what followed the same words before, in this session's text and, where it is asked for, in earlier outputs.

Prompt lookup (n-gram matching) with calibrated confidence: how often a match of n tokens was right so far becomes the
log-probability, so that its trees can be merged with other SSMs' and pruned by the same measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import TreeShape
from ssm_service.corpus import Corpus
from ssm_service.draft_tree import best_nodes
from ssm_service.noisy_rates import NoisyRates
from ssm_service.token_index import MAX_MATCH_LEN, MIN_MATCH_LEN, TokenIndex

_MAX_NUM_ALTERNATIVES = 4
# Below another SSM's path, so many of its last tokens and of those before it must have occurred.
_MIN_GRAFT_MATCH_LEN = 4
_PRIOR_RATES = {2: 0.25, 3: 0.45, 4: 0.6, 5: 0.7}
_PRIOR_WEIGHT = 20.0


@dataclass(slots=True)
class _Session:
    prompt_len: int
    index: TokenIndex = field(default_factory=TokenIndex)
    guesses: list[tuple[int, int]] = field(default_factory=list)  # (match length, token) at the last draft


class LookupSsm:
    """Drafts by matching; owned by the pool's engine."""

    def __init__(self, name: str, corpus: Corpus | None = None) -> None:
        """``corpus``: of earlier outputs, which all sessions are drafted from; ``None``: each from its own text alone."""
        self.name = name
        self.corpus = corpus
        self._sessions: dict[str, _Session] = {}
        self._num_hits = {length: rate * _PRIOR_WEIGHT for length, rate in _PRIOR_RATES.items()}
        self._num_tries = dict.fromkeys(_PRIOR_RATES, _PRIOR_WEIGHT)

    def draft(
        self, session_id: str, token_ids: list[int], shape: TreeShape, sampling: DraftSampling | None = None
    ) -> TokenTree:
        """The tree below all committed tokens; a lone root where nothing matches."""
        session = self._sessions.get(session_id)
        if session is None:  # what comes with its first draft: the prompt, and output that was decided elsewhere
            session = self._sessions[session_id] = _Session(len(token_ids))
        self._learn(session, token_ids)
        session.index.extend(token_ids[len(session.index.token_ids) :])
        tree = _Trie(token_ids[-1])
        if shape.max_num_nodes > 0 and shape.max_depth > 0 and len(token_ids) >= MIN_MATCH_LEN:
            match_len, alternatives = self._alternatives(session, token_ids, shape.max_depth)
            session.guesses = [(match_len, continuation[0]) for _, continuation in alternatives]
            for continuation, log_probs in self._weighted(match_len, alternatives, len(token_ids), sampling):
                tree.add(continuation, log_probs)
        return tree.best(shape)

    def _weighted(
        self, match_len: int, alternatives: list[tuple[int, list[int]]], position: int, sampling: DraftSampling | None
    ) -> list[tuple[list[int], list[float]]]:
        """Each continuation with its tokens' log-probabilities; ``position`` is that of the first ones."""
        num_matches = sum(count for count, _ in alternatives)
        weighted = []
        for count, continuation in alternatives:
            log_probs = [self._log_rate(match_len + i) for i in range(len(continuation))]
            log_probs[0] += math.log(count / num_matches)
            weighted.append((continuation, log_probs))
        if sampling is None or not weighted:
            return weighted
        rates = NoisyRates(sampling.seed)
        firsts = rates.add(position, [(continuation[0], log_probs[0]) for continuation, log_probs in weighted])
        following = [
            [rates.add(position + i, [(continuation[i], log_probs[i])]) for i in range(1, len(continuation))]
            for continuation, log_probs in weighted
        ]
        found = rates.log_probs()
        return [
            (continuation, [found[row][token_id] for row, token_id in zip([firsts, *rows], continuation, strict=True)])
            for (continuation, _), rows in zip(weighted, following, strict=True)
        ]

    def continuation(
        self, session_id: str, token_ids: list[int], path: Sequence[int], max_len: int, sampling: DraftSampling | None
    ) -> tuple[list[int], list[float]] | None:
        """What is likeliest to follow a path below all committed tokens, with log-probabilities.

        ``None`` where its last words did not occur before, as far as these were read by ``draft``.
        """
        session = self._sessions.get(session_id)
        text = [*token_ids[-MAX_MATCH_LEN:], *path]
        if session is None or len(text) < _MIN_GRAFT_MATCH_LEN:
            return None
        match_len, alternatives = self._alternatives(session, text, max_len, _MIN_GRAFT_MATCH_LEN)
        weighted = self._weighted(match_len, alternatives, len(token_ids) + len(path), sampling)
        return max(weighted, key=lambda each: each[1][0], default=None)

    def _alternatives(
        self, session: _Session, token_ids: list[int], max_len: int, min_match_len: int = MIN_MATCH_LEN
    ) -> tuple[int, list[tuple[int, list[int]]]]:
        """The length of the longest matches, and what followed them: how often, and the latest text of each first token."""
        best_len = min_match_len
        found: dict[int, tuple[int, list[int]]] = {}
        for index in (session.index, *(self.corpus.indexes if self.corpus is not None else ())):
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
        """Forgets a session; its output goes to the corpus, where there is one, and nothing of its prompt."""
        session = self._sessions.pop(session_id, None)
        if session is None or self.corpus is None:
            return
        if output := session.index.token_ids[session.prompt_len :]:
            self.corpus.add(output)

    def save(self) -> None:
        """The corpus, where it has a file."""
        if self.corpus is not None:
            self.corpus.save()


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

    def best(self, shape: TreeShape) -> TokenTree:
        """The best nodes, with the root."""
        kept = [0, *(node + 1 for node in best_nodes(self._scores[1:], shape))]
        place = {node: index for index, node in enumerate(kept)}
        return TokenTree(
            tuple(self._token_ids[node] for node in kept),
            tuple(place.get(self._parents[node], -1) for node in kept),
            tuple(self._log_probs[node] for node in kept),
            (0,) * len(kept),
        )
