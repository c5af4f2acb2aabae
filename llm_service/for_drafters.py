"""What a finished pass tells drafters of a session that asks for it: hidden states of its rows, and what follows each row most probably.

Called by the engine. Invariant: a session is told each row once at most, in order: those of its window from chunks of the opening item,
then with the verdicts of items that want them those of the root and of the accepted nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from llm_service.node_answers import NodeAnswers, NodeLogits
from llm_service.session import PendingWork
from specgrove.kernels.sampling import top_k_log_probs
from specgrove.loop.verifier_knowledge import RowTopK


def union_of(known: tuple[int, ...], works: Iterable[PendingWork]) -> tuple[int, ...]:
    """Layers that items ask for, with those that were ``known`` before: passes that differ in them would each need a program."""
    asked = {layer for pending in works for layer in pending.hidden_layers}
    return known if asked.issubset(known) else tuple(sorted(asked.union(known)))


def positions_to_tell(pending: PendingWork, start: int, end: int) -> range:
    """Of the rows of a chunk, those of tokens ``start`` to ``end - 1``, the ones whose hidden states are still to be told."""
    if not pending.hidden_layers:
        return range(0)
    session = pending.session
    first = max(start, session.hidden_start)
    return range(first, max(min(end, session.hidden_end), first))


def top_k_of_rows(pending: PendingWork, answers: NodeAnswers) -> tuple[RowTopK, ...]:
    """Of every node of the tree, in order; none where the session doesn't ask for it."""
    session, tree = pending.session, pending.tree
    if session.num_row_top_k == 0:
        return ()
    assert isinstance(answers, NodeLogits), "such sessions are asked for logits"
    log_probs, token_ids = top_k_log_probs(answers.logits, min(session.num_row_top_k, answers.logits.shape[1]))
    root_position = len(session.token_ids) - 1
    rows = zip(tree.token_ids, tree.depths(), token_ids.tolist(), log_probs.tolist(), strict=True)
    return tuple(
        RowTopK(root_position + depth, token_id, tuple(zip(ids, values, strict=True)))
        for token_id, depth, ids, values in rows
    )


def rows_on_path(first_node_row: int, accepted_nodes: Collection[int]) -> Sequence[int]:
    """Rows of the pass that the root and the accepted nodes have."""
    return [first_node_row + node for node in (0, *accepted_nodes)]
