"""What a pass says follows each node of a tree: the choices that it made, or logits to choose by. Read by the acceptance rule.

Here what a runner writes in place of a token is understood, and nowhere else in the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from specgrove.kernels.rows import HAS_LOGITS, NOT_A_NUMBER
from specgrove.kernels.trees import walk_tree
from specgrove.loop.token_tree import TokenTree


@dataclass(frozen=True, slots=True)
class NodeChoices:
    """A choice after each node, as the runner wrote them."""

    choices: Sequence[int]

    @classmethod
    def if_made(cls, choices: Sequence[int]) -> NodeChoices | None:
        """``None`` where the nodes have logits: those of a tree have all choices, or all logits."""
        return cls(choices) if choices and choices[0] != HAS_LOGITS else None

    def walk(self, tree: TokenTree) -> tuple[tuple[int, ...], int]:
        """The nodes that hold the choices one after the other from the root on, and the choice after the last of them.

        Raises ``ValueError`` where there was nothing to choose.
        """
        nodes = walk_tree(tree.token_ids, tree.parents, self.choices)
        bonus = self.choices[nodes[-1] if nodes else 0]
        if bonus < 0:
            raise ValueError("the logits hold NaN" if bonus == NOT_A_NUMBER else "every token is banned")
        return tuple(nodes), bonus


@dataclass(frozen=True, slots=True)
class NodeLogits:
    """``logits`` is float32 ``[num_nodes, vocab_size]``."""

    logits: torch.Tensor


NodeAnswers: TypeAlias = NodeChoices | NodeLogits
