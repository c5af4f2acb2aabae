"""Plans one forward pass: trees whose context is cached, then chunks of prompts, each up to a number of rows. Pure Python.

Called by the engine before every step. Verifications are never held back by prompts, and both are served in order of
arrival, so that none starves. What a pass takes of memory is bounded by its rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llm_service.session import PendingWork


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One item's part in a step: committed tokens to compute, and whether its tree is verified too."""

    pending: PendingWork
    chunk_len: int
    has_tree: bool

    @property
    def num_rows(self) -> int:
        """Rows this part adds to the forward pass; each needs a KV slot."""
        return self.chunk_len + (self.pending.tree.num_nodes if self.has_tree else 0)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The items of one forward pass."""

    entries: tuple[StepEntry, ...]


def plan_step(
    pending: Collection[PendingWork], max_num_chunk_tokens: int, max_num_tree_rows: int, max_num_in_flight: int = 1
) -> StepPlan:
    """``pending`` is in order of arrival. A tree rides along with the chunk that completes its context, or waits for the next pass.

    Items whose tree is in flight already are left out. Where several forward passes may be in flight (pipeline stages), each gets its share
    of the items, so that all stages have work.
    """
    trees: list[StepEntry] = []
    chunks: list[StepEntry] = []
    chunk_budget, tree_budget = max_num_chunk_tokens, max_num_tree_rows
    max_num_entries = -(-len(pending) // max_num_in_flight)
    for work in pending:
        if work.is_in_flight:
            continue
        if len(trees) + len(chunks) == max_num_entries:
            break
        num_uncached, num_nodes = work.session.num_uncached, work.tree.num_nodes
        chunk_len = min(num_uncached, chunk_budget)
        has_tree = chunk_len == num_uncached and num_nodes <= tree_budget
        if chunk_len == 0 and not has_tree:
            continue
        chunk_budget -= chunk_len
        tree_budget -= num_nodes if has_tree else 0
        (chunks if chunk_len else trees).append(StepEntry(work, chunk_len, has_tree))
    return StepPlan((*trees, *chunks))
