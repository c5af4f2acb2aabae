"""A whole model's forward pass in one native call: from token ids and rows to the choices that follow, or to logits.

Around the layers of ``decoder_step`` it runs the same kernels as ``specgrove.program.decoder`` calls one by one: the same bits. Rows come
as arrays, not as tensors: after the weights have gone through the caches, each torch call takes tens of microseconds.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype
from specgrove.kernels.decoder_step import DecoderStep, StepNorm
from specgrove.kernels.linear import NativeLinear
from specgrove.kernels.sampling import KnownToken, RowChoice

HAS_LOGITS, NOT_A_NUMBER, ALL_BANNED = -1, -2, -3
"""Instead of a token id: the row has logits; its logits hold NaN; all of them are minus infinity."""


def _int32() -> array[int]:
    return array("i")


def _int64() -> array[int]:
    return array("q")


@dataclass(slots=True)
class StepRows:
    """The rows of one forward pass. Arrays are of int64 (``q``) and int32 (``i``); what attention sees is as in ``AttentionBatch``."""

    token_ids: array[int] = field(default_factory=_int64)
    positions: array[int] = field(default_factory=_int32)
    slots: array[int] = field(default_factory=_int32)  # where each row's key and value go
    context_slots: array[int] = field(default_factory=_int32)
    context_offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    tree_slots: array[int] = field(default_factory=_int32)
    tree_offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    row_seq: array[int] = field(default_factory=_int32)
    row_context_len: array[int] = field(default_factory=_int32)
    row_masks: array[int] = field(default_factory=_int64)  # num_mask_words for each row
    asked_rows: array[int] = field(default_factory=_int64)  # those that are asked for a choice or logits, rising
    choices: list[RowChoice | None] = field(default_factory=list)  # for each asked row; None: logits
    known: dict[int, KnownToken] = field(default_factory=dict)
    """By place in ``asked_rows``, rising, those whose logits serve to tell how probable a token is. Native code gives their logits."""

    @property
    def num_rows(self) -> int:
        """Tokens in this forward pass."""
        return len(self.token_ids)

    @property
    def num_mask_words(self) -> int:
        """int64 words of a row's mask."""
        return len(self.row_masks) // len(self.token_ids)

    def check(self) -> None:
        """Raises ``ValueError`` unless the arrays have the types and lengths that native code relies on."""
        num_rows, num_seqs = self.num_rows, len(self.context_offsets) - 1
        if num_rows == 0 or num_seqs < 1:
            raise ValueError("a forward pass needs a row and a sequence")
        lengths = (len(self.positions), len(self.slots), len(self.row_seq), len(self.row_context_len))
        if lengths != (num_rows,) * 4 or len(self.row_masks) != num_rows * self.num_mask_words:
            raise ValueError(f"positions, slots, row_seq, row_context_len and row_masks must be of {num_rows} rows")
        if len(self.tree_offsets) != num_seqs + 1:
            raise ValueError(f"tree_offsets must be of {num_seqs} sequences, as context_offsets")
        if len(self.choices) != len(self.asked_rows):
            raise ValueError(f"there are {len(self.asked_rows)} asked rows, but {len(self.choices)} choices or None")
        if any(self.choices[place] is not None for place in self.known):
            raise ValueError("a row that is asked for a choice can't be asked for log-probabilities, too")
        int64, int32 = (self.token_ids, self.row_masks, self.asked_rows), (
            self.positions, self.slots, self.context_slots, self.context_offsets, self.tree_slots, self.tree_offsets,
            self.row_seq, self.row_context_len,
        )  # fmt: skip
        if any(values.typecode != "q" for values in int64) or any(values.typecode != "i" for values in int32):
            raise ValueError("token_ids, row_masks and asked_rows must be arrays of int64, the others of int32")

    @property
    def attention_arguments(self) -> tuple[int, ...]:
        """As ``AttentionBatch.attention_arguments``. The arrays must neither change nor go while these are used."""
        return (
            _address(self.context_slots),
            _address(self.context_offsets),
            _address(self.tree_slots),
            _address(self.tree_offsets),
            len(self.context_offsets) - 1,
            _address(self.row_seq),
            _address(self.row_context_len),
            _address(self.row_masks),
            self.num_rows,
            self.num_mask_words,
        )

    def plan(self) -> _native.AttentionPlan:
        """For native attention. The arrays must neither change nor go while it is used."""
        return _native.AttentionPlan(
            _address(self.context_slots),
            len(self.context_slots),
            _address(self.context_offsets),
            _address(self.tree_slots),
            len(self.tree_slots),
            _address(self.tree_offsets),
            len(self.context_offsets) - 1,
            _address(self.row_seq),
            _address(self.row_context_len),
            _address(self.row_masks),
            self.num_rows,
            self.num_mask_words,
        )


@dataclass(frozen=True, slots=True)
class StepEmbedding:
    """From token ids to hidden states: ``table[token_id] * scale``, projected, plus ``positions[position]``."""

    table: torch.Tensor  # [vocab_size, size]
    scale: float
    projection: NativeLinear | None
    positions: torch.Tensor | None  # [num_positions, hidden_size], of the table's dtype


@dataclass(frozen=True, slots=True)
class StepHead:
    """From hidden states to logits."""

    norm: StepNorm | None
    projection: NativeLinear | None
    vocab: NativeLinear


class ModelStep:
    """One model. One call at a time runs; others wait."""

    def __init__(self, embedding: StepEmbedding, layers: DecoderStep, head: StepHead) -> None:
        hidden_size = layers.hidden_size
        vocab_size, size = embedding.table.shape
        dtype = native_dtype(embedding.table, "embedding.table")
        if embedding.positions is not None:
            check(embedding.positions, "embedding.positions", embedding.table.dtype, None, hidden_size)
        for projection, name, sizes in (
            (embedding.projection, "embedding.projection", (size, hidden_size)),
            (head.projection, "head.projection", (hidden_size, head.vocab.in_features)),
        ):
            found = sizes[::-1] if projection is None else (projection.in_features, projection.out_features)
            if found != sizes:
                raise ValueError(f"{name} must go from {sizes[0]} to {sizes[1]}; without one both must be equal")
        self._layers = layers
        self._ends = embedding, head  # kept: the native step holds addresses in them
        self._vocab_size = head.vocab.out_features
        self._no_logits = torch.empty((0, self._vocab_size))
        self._native = _native.ModelStep(
            _native.StepEmbedding(
                table=embedding.table.data_ptr(),
                positions=0 if embedding.positions is None else embedding.positions.data_ptr(),
                dtype=dtype,
                vocab_size=vocab_size,
                size=size,
                num_positions=0 if embedding.positions is None else embedding.positions.shape[0],
                scale=embedding.scale,
                projection=None if embedding.projection is None else embedding.projection.native,
            ),
            layers.native,
            _native.StepHead(
                norm=layers.native_norm(head.norm),
                projection=None if head.projection is None else head.projection.native,
                vocab=head.vocab.native,
                size=head.vocab.in_features,
            ),
        )

    def __call__(
        self, rows: StepRows, k_caches: Sequence[torch.Tensor], v_caches: Sequence[torch.Tensor]
    ) -> tuple[list[int], torch.Tensor]:
        """For each asked row the token id chosen, or ``HAS_LOGITS``; and those rows' logits, float32 ``[n, vocab_size]``, in order.

        Instead of a token id there may be ``NOT_A_NUMBER`` or ``ALL_BANNED``. The rows' slots are written; caches are as for
        ``DecoderStep``. Of rows that aren't asked the last layer computes keys and values only. Raises ``ValueError`` for a token id,
        position or slot that is not there, before anything is written.
        """
        rows.check()
        choices = [None if choice is None else (choice.params.native, choice.position) for choice in rows.choices]
        num_logits = choices.count(None)
        logits = torch.empty((num_logits, self._vocab_size)) if num_logits else self._no_logits
        found = self._native.run(
            _address(rows.token_ids),
            rows.num_rows,
            _address(rows.positions),
            _address(rows.slots),
            rows.plan(),
            self._layers.native_caches(k_caches, v_caches),
            _address(rows.asked_rows),
            choices,
            logits.data_ptr(),
            self._vocab_size,
        )
        return found, logits


def _address(values: array[int]) -> int:
    return values.buffer_info()[0]
