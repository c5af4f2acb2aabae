"""A whole model's forward pass in one native call: from token ids and rows to the choices that follow, or to logits.

Around the layers of ``decoder_step`` it runs the same kernels as ``specgrove.program.decoder`` calls one by one: the same bits. Rows come
as arrays, not as tensors: after the weights have gone through the caches, each torch call takes tens of microseconds.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype
from specgrove.kernels.decoder_step import DecoderStep, StepNorm
from specgrove.kernels.linear import NativeLinear
from specgrove.kernels.rows import PassRows


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
        self, rows: PassRows, k_caches: Sequence[torch.Tensor], v_caches: Sequence[torch.Tensor]
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
