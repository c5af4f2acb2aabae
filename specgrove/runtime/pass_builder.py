"""Builds the rows of one pass from the sequences that take part: chunks of committed tokens and tree nodes.

Used by both services' schedulers. A row sees its sequence's context up to its own position, and its ancestors in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import KnownToken, RowChoice
from specgrove.kernels.trees import ancestor_masks

NOTHING_KNOWN: Mapping[int, KnownToken] = {}


@dataclass(frozen=True, slots=True)
class TreeRows:
    """A tree below a sequence's context. Parents are node indices; -1 marks nodes that follow the last context token.

    ``slots`` has one id per node. Nodes before ``first_new`` have their keys and values in place; the others are computed.
    """

    token_ids: Sequence[int]
    parents: Sequence[int]
    slots: Sequence[int]
    first_new: int = 0


class PassBuilder:
    """Collects sequences, then gives the rows of a pass over them."""

    def __init__(self) -> None:
        self._rows = PassRows()
        self._masks: list[bytes] = []  # of the rows, as long as they need to be

    @property
    def num_rows(self) -> int:
        """Rows added so far."""
        return self._rows.num_rows

    def add(
        self,
        context_slots: Sequence[int],
        chunk_token_ids: Sequence[int] = (),
        tree: TreeRows | None = None,
        *,
        chunk_logits: bool = False,
        choices: Sequence[RowChoice] | None = None,
        known: Mapping[int, KnownToken] = NOTHING_KNOWN,
        first_position: int = 0,
    ) -> range:
        """Adds a sequence; returns which of the asked rows are its own, those of ``known`` tokens aside.

        ``context_slots`` holds the slots of positions ``first_position`` and on, so that what lies before may be left out; the last
        ``len(chunk_token_ids)`` of them are computed now. Asked
        are the chunk's rows in ``known``, by their places in it, rising; its last row if ``chunk_logits``; then every new tree node in
        order: for their logits, or for ``choices``.
        """
        rows = self._rows
        sequence = len(rows.context_offsets) - 1
        context_len, chunk_len = len(context_slots), len(chunk_token_ids)
        first_row = rows.num_rows
        rows.context_slots.extend(context_slots)
        rows.context_offsets.append(len(rows.context_slots))

        if chunk_len:
            start = context_len - chunk_len
            rows.token_ids.extend(chunk_token_ids)
            rows.positions.extend(range(first_position + start, first_position + context_len))
            rows.slots.extend(context_slots[start:])
            rows.row_seq.extend([sequence] * chunk_len)
            rows.row_context_len.extend(range(start + 1, context_len + 1))
            self._masks.extend([b""] * chunk_len)
        for place, token in known.items():
            rows.known[len(rows.asked_rows)] = token
            rows.asked_rows.append(first_row + place)
            rows.choices.append(None)
        first_asked = len(rows.asked_rows)
        if chunk_logits:
            rows.asked_rows.append(rows.num_rows - 1)

        if tree is not None:
            self._add_tree(sequence, context_len, first_position + context_len, tree)
        rows.tree_offsets.append(len(rows.tree_slots))
        asked = range(first_asked, len(rows.asked_rows))
        rows.choices.extend([None] * len(asked) if choices is None else choices)
        return asked

    def _add_tree(self, sequence: int, context_len: int, first_position: int, tree: TreeRows) -> None:
        rows = self._rows
        rows.tree_slots.extend(tree.slots)
        num_nodes = len(tree.token_ids)
        depths = [0] * num_nodes
        for node, parent in enumerate(tree.parents):
            depths[node] = depths[parent] + 1 if parent >= 0 else 0
        masks = ancestor_masks(tree.parents)
        mask_len = len(masks) // num_nodes
        for node in range(tree.first_new, num_nodes):
            rows.asked_rows.append(rows.num_rows)
            rows.token_ids.append(tree.token_ids[node])
            rows.positions.append(first_position + depths[node])
            rows.slots.append(tree.slots[node])
            rows.row_seq.append(sequence)
            rows.row_context_len.append(context_len)
            self._masks.append(masks[node * mask_len : (node + 1) * mask_len])

    def build(self) -> PassRows:
        """The rows; at least one must have been added, and none may be added any more."""
        mask_len = max(8, max(map(len, self._masks)))
        self._rows.row_masks.frombytes(b"".join(mask.ljust(mask_len, b"\0") for mask in self._masks))
        return self._rows
