"""Plans one pass: trees whose context is cached, then chunks of prompts, each up to a number of rows. Pure Python.

Called by ``PassPlanner`` for every pass. Verifications are never held back by prompts and are served in order of arrival;
prompts share a pass's rows, so that a short one does not wait for a long one. What a pass takes of memory is bounded by its rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llm_service.row_shares import prompt_shares
from llm_service.session import PendingWork
from specgrove.config import MAX_NUM_KNOWN_ROWS


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """What of an item a pass computes: committed tokens, and whether its tree is verified too."""

    pending: PendingWork
    chunk_len: int
    has_tree: bool

    @property
    def num_rows(self) -> int:
        """Rows this part adds to the pass; each needs a KV slot."""
        return self.chunk_len + (self.pending.tree.num_nodes if self.has_tree else 0)


def plan_pass(
    pending: Collection[PendingWork],
    max_num_chunk_tokens: int,
    max_num_tree_rows: int,
    max_num_in_flight: int = 1,
    max_num_known_rows: int = MAX_NUM_KNOWN_ROWS,
) -> tuple[PlannedPart, ...]:
    """``pending`` is in order of arrival. A tree rides along with the chunk that completes its context, or waits for the next pass.

    Items whose tree is in flight already are left out, and trees that may not be verified yet.

    Where several passes may be in flight (pipeline stages), each gets its share of the items, so that all stages have work. Prompts whose
    log-probabilities are wanted get ``max_num_known_rows`` at most, since their rows have logits.
    """
    trees: list[PlannedPart] = []
    chunks: list[PlannedPart] = []
    tree_budget, known_budget = max_num_tree_rows, max_num_known_rows
    lens = [work.session.num_uncached for work in pending if not work.is_in_flight]
    shares = iter(prompt_shares(lens, max_num_chunk_tokens))
    max_num_parts = -(-len(pending) // max_num_in_flight)
    for work in pending:
        if work.is_in_flight:
            continue
        if len(trees) + len(chunks) == max_num_parts:
            break
        num_uncached, num_nodes = work.session.num_uncached, work.tree.num_nodes
        chunk_len = next(shares)
        if work.session.wants_log_probs:
            chunk_len = min(chunk_len, known_budget)
            known_budget -= chunk_len
        has_tree = chunk_len == num_uncached and num_nodes <= tree_budget and work.may_verify(is_alone=chunk_len == 0)
        if chunk_len == 0 and not has_tree:
            continue
        tree_budget -= num_nodes if has_tree else 0
        (chunks if chunk_len else trees).append(PlannedPart(work, chunk_len, has_tree))
    return (*trees, *chunks)
