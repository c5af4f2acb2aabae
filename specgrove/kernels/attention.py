"""Tree attention over one-token KV slots, and the rotary embedding that fills them.

For the CPU. Other devices have the same ops in ``specgrove.kernels.torch_ops``, NVIDIA GPUs kernels in ``specgrove.kernels.cuda``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype
from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_ops import tensor_of

MAX_HEAD_DIM = 256  # kMaxHeadDim in csrc/cpu/elementwise.h: the size of a buffer there


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which keys each row of a forward pass sees; made once per step on the CPU, used by all layers.

    A row's keys, by position: the first ``row_context_len[row]`` context slots of its sequence, then the tree slots of its
    sequence whose bit is set in ``row_masks[row]`` (its ancestors in order of depth, and itself). Rows of a prompt chunk
    have an empty mask and see the context up to their own position.
    """

    context_slots: torch.Tensor  # int32 [total context length]
    context_offsets: torch.Tensor  # int32 [num_sequences + 1]
    tree_slots: torch.Tensor  # int32 [total number of nodes]
    tree_offsets: torch.Tensor  # int32 [num_sequences + 1]
    row_seq: torch.Tensor  # int32 [num_rows]
    row_context_len: torch.Tensor  # int32 [num_rows]
    row_masks: torch.Tensor  # int64 [num_rows, num_mask_words], bits of uint64 words
    plan: _native.AttentionPlan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        num_rows = self.row_seq.shape[0]
        check(self.context_slots, "context_slots", torch.int32, None)
        check(self.context_offsets, "context_offsets", torch.int32, None)
        check(self.tree_slots, "tree_slots", torch.int32, None)
        check(self.tree_offsets, "tree_offsets", torch.int32, self.context_offsets.shape[0])
        check(self.row_seq, "row_seq", torch.int32, None)
        check(self.row_context_len, "row_context_len", torch.int32, num_rows)
        check(self.row_masks, "row_masks", torch.int64, num_rows, None)
        num_seqs = self.context_offsets.shape[0] - 1
        if num_seqs < 1:
            raise ValueError("context_offsets must have one more element than there are sequences")
        plan = _native.AttentionPlan(
            self.context_slots.data_ptr(),
            self.context_slots.shape[0],
            self.context_offsets.data_ptr(),
            self.tree_slots.data_ptr(),
            self.tree_slots.shape[0],
            self.tree_offsets.data_ptr(),
            num_seqs,
            self.row_seq.data_ptr(),
            self.row_context_len.data_ptr(),
            self.row_masks.data_ptr(),
            num_rows,
            self.row_masks.shape[1],
        )
        object.__setattr__(self, "plan", plan)

    @classmethod
    def of(cls, rows: PassRows) -> AttentionBatch:
        """What the rows of a pass see."""
        return cls(
            context_slots=tensor_of(rows.context_slots),
            context_offsets=tensor_of(rows.context_offsets),
            tree_slots=tensor_of(rows.tree_slots),
            tree_offsets=tensor_of(rows.tree_offsets),
            row_seq=tensor_of(rows.row_seq),
            row_context_len=tensor_of(rows.row_context_len),
            row_masks=tensor_of(rows.row_masks).view(rows.num_rows, -1),
        )

    @property
    def attention_arguments(self) -> tuple[int, ...]:
        """Addresses of context slots and offsets, tree slots and offsets; the number of sequences; addresses of the rows' sequences,
        context lengths and masks; the numbers of rows and of a mask's words.
        """
        return (
            self.context_slots.data_ptr(),
            self.context_offsets.data_ptr(),
            self.tree_slots.data_ptr(),
            self.tree_offsets.data_ptr(),
            self.context_offsets.shape[0] - 1,
            self.row_seq.data_ptr(),
            self.row_context_len.data_ptr(),
            self.row_masks.data_ptr(),
            *self.row_masks.shape,
        )


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """Rotates queries and keys by position (arXiv 2104.09864, halves as in Llama), writes keys and values to their slots.

    ``qkv`` is float32 ``[num_rows, (num_heads + 2 * num_kv_heads) * head_dim]``, ``positions`` and ``slots`` int32
    ``[num_rows]``, ``cos_sin`` float32 ``[max_positions, head_dim]`` (cosines, then sines), the caches
    ``[num_slots, num_kv_heads, head_dim]``. Without ``cos_sin`` (learned positions, ALiBi) nothing is rotated, and
    ``positions`` are not looked at. Returns the queries, float32 ``[num_rows, num_heads, head_dim]``. Raises
    ``ValueError`` for a position or slot that is not there, before anything is written.
    """
    num_rows, row_size = qkv.shape
    num_slots, num_kv_heads, head_dim = k_cache.shape
    num_heads = row_size // head_dim - 2 * num_kv_heads
    max_positions = 0 if cos_sin is None else cos_sin.shape[0]
    check(qkv, "qkv", torch.float32, num_rows, (num_heads + 2 * num_kv_heads) * head_dim)
    check(positions, "positions", torch.int32, num_rows)
    check(slots, "slots", torch.int32, num_rows)
    check(v_cache, "v_cache", k_cache.dtype, num_slots, num_kv_heads, head_dim)
    if cos_sin is not None:
        check(cos_sin, "cos_sin", torch.float32, max_positions, head_dim)
        if head_dim % 2:
            raise ValueError(f"heads of size {head_dim} can't be rotated: the size must be even")
    if head_dim > MAX_HEAD_DIM or num_heads < 1:
        raise ValueError(f"{num_heads} heads of size {head_dim} are not supported")
    queries = torch.empty((num_rows, num_heads, head_dim))
    _native.rotate_and_store(
        qkv.data_ptr(),
        positions.data_ptr(),
        0 if cos_sin is None else cos_sin.data_ptr(),
        slots.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        native_dtype(k_cache, "k_cache"),
        max_positions,
        num_slots,
        num_rows,
        num_heads,
        num_kv_heads,
        head_dim,
        queries.data_ptr(),
    )
    return queries


def tree_attention(
    queries: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float,
    alibi_slopes: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Softmax attention of every row over its keys; float32 ``[num_rows, num_heads * head_dim]``.

    ``queries`` is float32 ``[num_rows, num_heads, head_dim]``; a KV head serves ``num_heads / num_kv_heads`` heads.
    ``alibi_slopes`` is float32 ``[num_heads]``: adds ``slope * (key position - query position)`` (arXiv 2108.12409).
    With a ``window`` a row sees only keys with ``query position - key position < window`` (arXiv 2004.05150), and pays
    for them only.
    A row's bits depend on its keys' tokens and positions only, not on whether they are context or tree.
    """
    num_rows, num_heads, head_dim = queries.shape
    num_slots, num_kv_heads, cache_dim = k_cache.shape
    check(queries, "queries", torch.float32, batch.row_seq.shape[0], num_heads, cache_dim)
    check(v_cache, "v_cache", k_cache.dtype, num_slots, num_kv_heads, head_dim)
    if num_heads % num_kv_heads or head_dim > MAX_HEAD_DIM:
        raise ValueError(f"{num_heads} heads over {num_kv_heads} KV heads of size {head_dim} are not supported")
    if alibi_slopes is not None:
        check(alibi_slopes, "alibi_slopes", torch.float32, num_heads)
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    out = torch.empty((num_rows, num_heads * head_dim))
    _native.tree_attention(
        queries.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        native_dtype(k_cache, "k_cache"),
        num_slots,
        num_kv_heads,
        head_dim,
        batch.plan,
        num_heads,
        scale,
        0 if alibi_slopes is None else alibi_slopes.data_ptr(),
        window,
        out.data_ptr(),
    )
    return out
