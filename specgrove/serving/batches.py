"""How many items of a work stream go into one message: by their number, and by their bytes. Used by both halves of the streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from specgrove.serving.address import MAX_MESSAGE_BYTES

# Elements that a list of a message may have at most.
MAX_LIST_LEN = 1024
# What one item may have: a message may name ``MAX_LIST_LEN`` others beside it, of ten bytes each.
MAX_ITEM_BYTES = MAX_MESSAGE_BYTES - 16 * 1024
# Beyond this a message waits for no further item: it would hold up those before it.
_MAX_BATCH_BYTES = MAX_MESSAGE_BYTES // 4
_MAX_NUM_ITEMS = 64

MessageT = TypeVar("MessageT", bound=Any)


def batches(messages: Sequence[MessageT]) -> Iterator[list[MessageT]]:
    """In order; an item that is larger than a batch should be goes alone."""
    batch: list[MessageT] = []
    num_bytes = 0
    for message in messages:
        size = message.ByteSize()
        if batch and (len(batch) == _MAX_NUM_ITEMS or num_bytes + size > _MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(message)
        num_bytes += size
    if batch:
        yield batch
