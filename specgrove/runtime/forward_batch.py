"""Builds the rows of one forward pass from the sequences that take part: chunks of committed tokens and tree nodes.

Used by both services' schedulers. A row sees its sequence's context up to its own position, and its ancestors in the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.trees import ancestor_masks
from specgrove.models.forward_batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class TreeRows:
    """A tree below a sequence's context. Parents are node indices; -1 marks nodes that follow the last context token.

    ``slots`` has one id per node. Nodes before ``first_new`` have their keys and values in place; the others are computed.
    """

    token_ids: Sequence[int]
    parents: Sequence[int]
    slots: Sequence[int]
    first_new: int = 0


@dataclass(slots=True)
class BatchBuilder:
    """Collects sequences, then builds the batch."""

    _token_ids: list[int] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)
    _slots: list[int] = field(default_factory=list)
    _logit_rows: list[int] = field(default_factory=list)
    _context_slots: list[int] = field(default_factory=list)
    _context_offsets: list[int] = field(default_factory=lambda: [0])
    _tree_slots: list[int] = field(default_factory=list)
    _tree_offsets: list[int] = field(default_factory=lambda: [0])
    _row_seq: list[int] = field(default_factory=list)
    _row_context_len: list[int] = field(default_factory=list)
    _row_masks: list[bytes] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows added so far."""
        return len(self._token_ids)

    def add(
        self,
        context_slots: Sequence[int],
        chunk_token_ids: Sequence[int] = (),
        tree: TreeRows | None = None,
        *,
        chunk_logits: bool = False,
    ) -> range:
        """Adds a sequence; returns where its logits will be.

        ``context_slots`` holds the slots of positions 0 .. n - 1; the last ``len(chunk_token_ids)`` of them are computed now.
        Logits come for the chunk's last row if ``chunk_logits``, then for every new tree node in order.
        """
        sequence = len(self._context_offsets) - 1
        context_len = len(context_slots)
        first_logit = len(self._logit_rows)
        self._context_slots.extend(context_slots)
        self._context_offsets.append(len(self._context_slots))

        start = context_len - len(chunk_token_ids)
        self._token_ids.extend(chunk_token_ids)
        self._positions.extend(range(start, context_len))
        self._slots.extend(context_slots[start:])
        self._row_seq.extend([sequence] * len(chunk_token_ids))
        self._row_context_len.extend(range(start + 1, context_len + 1))
        self._row_masks.extend([b""] * len(chunk_token_ids))
        if chunk_logits:
            self._logit_rows.append(self.num_rows - 1)

        if tree is not None:
            self._add_tree(sequence, context_len, tree)
        self._tree_offsets.append(len(self._tree_slots))
        return range(first_logit, len(self._logit_rows))

    def _add_tree(self, sequence: int, context_len: int, tree: TreeRows) -> None:
        self._tree_slots.extend(tree.slots)
        num_nodes = len(tree.token_ids)
        depths = [0] * num_nodes
        for node, parent in enumerate(tree.parents):
            depths[node] = depths[parent] + 1 if parent >= 0 else 0
        masks = ancestor_masks(tree.parents)
        mask_len = len(masks) // num_nodes
        for node in range(tree.first_new, num_nodes):
            self._logit_rows.append(self.num_rows)
            self._token_ids.append(tree.token_ids[node])
            self._positions.append(context_len + depths[node])
            self._slots.append(tree.slots[node])
            self._row_seq.append(sequence)
            self._row_context_len.append(context_len)
            self._row_masks.append(masks[node * mask_len : (node + 1) * mask_len])

    def build(self) -> ForwardBatch:
        """The batch; at least one row must have been added."""
        mask_len = max(8, max(map(len, self._row_masks)))
        masks = bytearray(b"".join(mask.ljust(mask_len, b"\0") for mask in self._row_masks))
        return ForwardBatch(
            token_ids=torch.tensor(self._token_ids, dtype=torch.int64),
            positions=_int32(self._positions),
            slots=_int32(self._slots),
            attention=AttentionBatch(
                context_slots=_int32(self._context_slots),
                context_offsets=_int32(self._context_offsets),
                tree_slots=_int32(self._tree_slots),
                tree_offsets=_int32(self._tree_offsets),
                row_seq=_int32(self._row_seq),
                row_context_len=_int32(self._row_context_len),
                row_masks=torch.frombuffer(masks, dtype=torch.int64).view(self.num_rows, mask_len // 8),
            ),
            logit_rows=torch.tensor(self._logit_rows, dtype=torch.int64),
        )


def _int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
