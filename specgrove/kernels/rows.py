"""The rows of one pass: the one type for them, from the schedulers that fill it to the kernels that read it.

Built by ``specgrove.runtime``, run by a program's backend. Rows come as arrays, not as tensors: after the weights have gone through the
caches, each torch call takes tens of microseconds.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from specgrove.kernels import _native
from specgrove.kernels.sampling import KnownToken, RowChoice

HAS_LOGITS, NOT_A_NUMBER, ALL_BANNED = -1, -2, -3
"""Instead of a token id: the row has logits; its logits hold NaN; all of them are minus infinity."""


def chosen_before(asked_row: int) -> int:
    """Instead of a row's token id, in a pass ahead: what the pass before chooses for one of its asked rows (``Runner.max_num_ahead``)."""
    return -1 - asked_row


def _int32() -> array[int]:
    return array("i")


def _int64() -> array[int]:
    return array("q")


@dataclass(slots=True)
class PassRows:
    """The rows of one pass. Arrays are of int64 (``q``) and int32 (``i``).

    A row's keys, by position: the first ``row_context_len[row]`` context slots of its sequence, then the tree slots of its sequence whose
    bit is set in ``row_masks`` (its ancestors in order of depth, and itself). Rows of a prompt's chunk have an empty mask and see the
    context up to their own position.
    """

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
    hidden_layers: tuple[int, ...] = ()
    """The pass hands out the hidden states of all rows before these layers, rising; the number of layers: those after the last."""

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
        """Addresses of context slots and offsets, tree slots and offsets; the number of sequences; addresses of the rows' sequences,
        context lengths and masks; the numbers of rows and of a mask's words. The arrays must neither change nor go while these are used.
        """
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


def _address(values: array[int]) -> int:
    return values.buffer_info()[0]


def plain_rows(num_rows: int) -> PassRows:
    """Rows of one sequence, which see each other as a prompt's do; nobody asks anything of them."""
    return PassRows(
        token_ids=array("q", range(num_rows)),
        positions=array("i", range(num_rows)),
        slots=array("i", range(num_rows)),
        context_slots=array("i", range(num_rows)),
        context_offsets=array("i", [0, num_rows]),
        tree_offsets=array("i", [0, 0]),
        row_seq=array("i", [0] * num_rows),
        row_context_len=array("i", range(1, num_rows + 1)),
        row_masks=array("q", [0] * num_rows),
    )
