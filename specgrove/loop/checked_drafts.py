"""What drafters said, checked: trees that the loop may rely on. Used by ``specgrove.loop.drafter_side``."""

from __future__ import annotations

from dataclasses import dataclass

from specgrove.config import MAX_NUM_TREE_NODES, NUM_TOKEN_IDS
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import DraftedTree, SsmTime


@dataclass(frozen=True, slots=True)
class CheckedTree:
    """One SSM's tree, less the tokens that the LLM doesn't have."""

    ssm: str
    tree: TokenTree


@dataclass(frozen=True, slots=True)
class CheckedDraft:
    """One drafter's trees, and what its SSMs took."""

    trees: tuple[CheckedTree, ...] = ()
    times: tuple[SsmTime, ...] = ()


NO_DRAFT = CheckedDraft()


def checked_tree(drafted: DraftedTree, max_depth: int, vocab_size: int) -> CheckedTree:
    """The tree less the tokens that the LLM doesn't have: SSMs' vocabularies are often padded. Raises ``ValueError``."""
    whole = drafted.tree.validated(vocab_size=NUM_TOKEN_IDS, max_num_nodes=MAX_NUM_TREE_NODES)
    if max(whole.depths()) > max_depth:
        raise ValueError(f"it is deeper than the {max_depth} levels asked for")
    token_ids, foreign_ids = whole.token_ids[1:], drafted.foreign_ids
    if max(token_ids, default=0) < vocab_size and foreign_ids.isdisjoint(token_ids):  # as nearly always
        return CheckedTree(drafted.ssm, whole)
    known = whole.of_tokens(lambda token_id: token_id < vocab_size and token_id not in foreign_ids)
    return CheckedTree(drafted.ssm, known)
