"""The acceptance rule: walk the tree from its root, at each node emit the verifier's one choice, follow the child that holds it.

The choice is a function of the node's logits, the sampling parameters, the position and the tokens before it: never of the
tree. So what is emitted is what incremental decoding with the same seed emits (arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from llm_service.node_answers import NodeAnswers, NodeChoices
from llm_service.session import Session
from llm_service.token_counts import CountsAhead
from specgrove.kernels.sampling import (
    NO_ADJUSTMENTS,
    RowChoice,
    TokenAdjustments,
    choose,
)
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs
from specgrove.runtime.known_tokens import log_probs_of


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tokens to commit (accepted, then the bonus token), and the tree nodes of the accepted ones."""

    token_ids: tuple[int, ...]
    accepted_nodes: tuple[int, ...]
    log_probs: tuple[LogProbs, ...]
    unchosen_node: int | None = None
    """The child that holds the bonus token, where there is one: nothing could be chosen after it."""


def choices_wanted(session: Session, tree: TokenTree, *, are_cheap: bool) -> list[RowChoice] | None:
    """For each node the choice that the pass shall make; ``None`` where it shall give logits.

    Logits are needed where penalties, a bias, top-k, top-p, min-p, log-probabilities, ``min_tokens``, a structure or the most probable
    tokens of rows take part. A sampled tree gets them too, unless choices ``are_cheap``: of those at all its nodes few would be looked at.
    """
    sampling = session.sampling
    is_simple = (
        session.choice_params.is_of_all
        and sampling.num_log_probs is None
        and not sampling.logit_bias
        and sampling.structured_output is None
        and session.num_row_top_k == 0
        and not (sampling.stop_token_ids and session.num_output_tokens < sampling.min_tokens)
    )
    if not is_simple or (session.choice_params.temperature > 0 and tree.num_nodes > 1 and not are_cheap):
        return None
    position = len(session.token_ids)
    return [RowChoice(session.choice_params, position + depth) for depth in tree.depths()]


def accept(session: Session, tree: TokenTree, answers: NodeAnswers, sent_nodes: Sequence[int] = ()) -> Acceptance:
    """``answers`` are of all nodes, in order. Raises ``ValueError`` where there is nothing to choose.

    ``sent_nodes`` are what the nodes are called in the tree for which masks were asked, where that is not the same.
    """
    if not isinstance(answers, NodeChoices):
        return _accept_by_logits(session, tree, answers.logits, sent_nodes or range(tree.num_nodes))
    nodes, bonus = answers.walk(tree)
    return Acceptance((*(tree.token_ids[node] for node in nodes), bonus), nodes, ())


def _accept_by_logits(session: Session, tree: TokenTree, logits: torch.Tensor, sent_nodes: Sequence[int]) -> Acceptance:
    children = {(tree.parents[node], tree.token_ids[node]): node for node in range(1, tree.num_nodes)}
    chooser, structure = _Chooser(session, tree.num_nodes), session.structure
    token_ids: list[int] = []
    accepted_nodes: list[int] = []
    log_probs: list[LogProbs] = []
    node, unchosen_node = 0, None
    while True:
        row = logits[node]
        if structure is not None:
            row = structure.masked(row, sent_nodes[node], session.num_output_tokens + len(token_ids))
        token_id = chooser.choose(row)
        if session.sampling.num_log_probs is not None:
            log_probs.append(log_probs_of(row, token_id, session.sampling.num_log_probs))
        token_ids.append(token_id)
        child = children.get((node, token_id))
        if child is None:
            break
        # Where no mask has come in time the walk ends: the same token follows in the next step.
        if structure is not None and (structure.is_stop(token_id) or not structure.knows(sent_nodes[child])):
            unchosen_node = child
            break
        accepted_nodes.append(child)
        node = child
    return Acceptance(tuple(token_ids), tuple(accepted_nodes), tuple(log_probs), unchosen_node)


class _Chooser:
    """Chooses token after token below a session's committed ones."""

    def __init__(self, session: Session, max_num_tokens: int) -> None:
        sampling = session.sampling
        self._sampling = sampling
        self._params = session.choice_params
        self._position = len(session.token_ids)
        self._num_output_tokens = session.num_output_tokens
        self._seen, self._output = None, None
        if session.has_penalties:
            self._seen = CountsAhead(session.seen, max_num_tokens)
            self._output = CountsAhead(session.output_counts, max_num_tokens)
        self._bias_token_ids, self._bias = None, None
        if sampling.logit_bias:
            self._bias_token_ids = _ids(token_id for token_id, _ in sampling.logit_bias)
            self._bias = torch.tensor([bias for _, bias in sampling.logit_bias], dtype=torch.float32)

    def choose(self, logits: torch.Tensor) -> int:
        """``logits`` is float32 ``[vocab_size]``."""
        token_id = choose(logits, self._params, self._position, self._adjustments())
        self._position += 1
        self._num_output_tokens += 1
        for counts in (self._seen, self._output):
            if counts is not None:
                counts.add(token_id)
        return token_id

    def _adjustments(self) -> TokenAdjustments:
        is_too_early = (
            self._num_output_tokens < self._sampling.min_tokens
            and bool(self._sampling.stop_token_ids)
            and self._sampling.structured_output is None  # which knows where nothing but a stop token is left
        )
        if not (self._seen or is_too_early or self._sampling.logit_bias):
            return NO_ADJUSTMENTS
        return TokenAdjustments(
            seen_token_ids=self._seen.token_ids if self._seen else None,
            output_token_ids=self._output.token_ids if self._output else None,
            output_counts=self._output.counts if self._output else None,
            bias_token_ids=self._bias_token_ids,
            bias=self._bias,
            banned_token_ids=_ids(self._sampling.stop_token_ids) if is_too_early else None,
        )


def _ids(values: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
